package detect_test

import (
	"testing"

	"github.com/spile/spile/collector/detect"
	"github.com/spile/spile/proto/line"
	v1 "github.com/spile/spile/proto/spile/v1"
)

func mustCall(t testing.TB, text string) *v1.Call {
	t.Helper()
	call := &v1.Call{}
	if err := line.Unmarshal([]byte(text), call); err != nil {
		t.Fatal(err)
	}
	return call
}

func mustDetector(t testing.TB, limit int) *detect.Detector {
	t.Helper()
	rules, err := detect.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	d, err := detect.New(rules, limit)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
