package detect_test

import (
	"testing"

	"github.com/spile/spile/collector/detect"
)

func TestBuiltinRulesDoWhatTheirTestsSay(t *testing.T) {
	rules, err := detect.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	if err := rules.Verify(); err != nil {
		t.Fatal(err)
	}
}
