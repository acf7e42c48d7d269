package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestTally(t *testing.T) {
	var out bytes.Buffer
	y := tally{output: map[string][]string{}, expected: []string{"deploy/TestBench*"}, stdout: &out}
	for _, e := range []event{
		{"output", "github.com/spile/spile/deploy", "TestBenchX", "    x_test.go:1: only under make bench\n"},
		{"skip", "github.com/spile/spile/deploy", "TestBenchX", ""},
		{"output", "github.com/spile/spile/bpf", "TestLoad", "    y_test.go:1: no root\n"},
		{"skip", "github.com/spile/spile/bpf", "TestLoad", ""},
		{"pass", "github.com/spile/spile/bpf", "TestOther", ""},
		{"output", "github.com/spile/spile/bpf", "TestBad", "broken\n"},
		{"fail", "github.com/spile/spile/bpf", "TestBad", ""},
		{"output", "github.com/spile/spile/bpf", "", "FAIL\n"},
		{"fail", "github.com/spile/spile/bpf", "", ""},
	} {
		y.add(e)
	}
	if y.passed != 1 || y.failed != 1 || y.skipped != 2 {
		t.Errorf("got %d passed, %d failed, %d skipped", y.passed, y.failed, y.skipped)
	}
	if got := strings.Join(y.unexpected, " "); got != "bpf/TestLoad" {
		t.Errorf("unexpected skips: %q, want bpf/TestLoad", got)
	}
	if !strings.Contains(out.String(), "no root") || !strings.Contains(out.String(), "broken") {
		t.Errorf("output lacks the reason of a skip or a failure:\n%s", &out)
	}
}
