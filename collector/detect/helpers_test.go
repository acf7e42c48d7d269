package detect_test

import (
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/spile/spile/collector/detect"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// decode reads a Call JSON line, whose enums are lower-case words.
func decode(data []byte, call *v1.Call) error {
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	if o, ok := m["observed"].(string); ok {
		m["observed"] = map[string]int{"client": 1, "server": 2, "both": 3}[o]
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return protojson.Unmarshal(data, call)
}

func mustCall(t testing.TB, text string) *v1.Call {
	t.Helper()
	call := &v1.Call{}
	if err := decode([]byte(text), call); err != nil {
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
