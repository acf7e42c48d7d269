package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spile/spile/agent/probe"
)

func TestDoctorTellsWhatWasLearned(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, probe.LearnedFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if checks := learnedChecks(dir); checks != nil {
		t.Errorf("nothing was learned: %+v", checks)
	}
	write(`{"builds": [
		{"build_id": "aa11", "silent": "/lib/libssl.so.3", "seen": "2026-11-22T01:02:03Z"},
		{"build_id": "bb22", "survived": true, "inner": {"0x10 a b": "disagreed"}, "seen": "2026-11-22T01:02:03Z",
		 "doubts": {"0x10 a b": {"why": "64 of 128", "tries": 1, "until": "2026-11-22T02:02:03Z"}}}]}`)
	checks := learnedChecks(dir)
	if len(checks) != 2 || !strings.Contains(checks[0].Detail, "/lib/libssl.so.3 (build id aa11)") || !strings.Contains(checks[1].Detail, "bb22 at 0x10 a b: 64 of 128; it is tried again after 2026-11-22 02:02 UTC") {
		t.Errorf("%+v", checks)
	}
	write("{")
	if checks := learnedChecks(dir); checks != nil {
		t.Errorf("a file that cannot be read: %+v", checks)
	}
}
