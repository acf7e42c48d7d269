package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// TestLiveShowsWhatCanBeRead floods the view: it shows as many calls as a person can follow and counts the rest.
func TestLiveShowsWhatCanBeRead(t *testing.T) {
	var out bytes.Buffer
	now := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	w := World{Stdout: &out, Now: func() time.Time { return now }}
	l := &live{world: w, calls: newCallTable(w, true), told: map[string]bool{}}
	flood := func(n int) {
		for range n {
			if err := l.show(&v1.Call{Time: timestamppb.New(now), Method: "GET", Route: "/a", StatusCode: 200}); err != nil {
				t.Fatal(err)
			}
		}
	}
	flood(1000)
	if err := l.show(&v1.Lag{Missed: 500}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "/a"); n != liveCallsPerSecond {
		t.Errorf("%d calls in a second", n)
	}
	if err := l.summary(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "1470 calls more") {
		t.Errorf("the rest is not counted: %s", out.String()[max(0, out.Len()-200):])
	}
	now = now.Add(time.Second)
	flood(1)
	if n := strings.Count(out.String(), "/a"); n != liveCallsPerSecond+1 {
		t.Errorf("%d calls after a second", n)
	}
	before := out.Len()
	if err := l.summary(); err != nil || out.Len() != before {
		t.Errorf("a summary of nothing: %v %s", err, out.String()[before:])
	}
}

// TestLiveTellsEachThingOnce repeats health reports and findings.
func TestLiveTellsEachThingOnce(t *testing.T) {
	var out bytes.Buffer
	now := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	w := World{Stdout: &out, Now: func() time.Time { return now }}
	l := &live{world: w, calls: newCallTable(w, true), told: map[string]bool{}}
	for i := range 5 {
		now = now.Add(gapPatience / 2)
		reason := "static"
		if i < 2 {
			reason = "not looked at yet" // No line: it was not so for long.
		}
		for _, e := range []any{
			&v1.Agent{Node: "n", Connected: true}, // connected, no report yet
			&v1.Agent{Node: "n", Connected: true, Health: &v1.Health{Rungs: map[string]string{"socket": "tp_btf"}, Probes: []*v1.Probe{{Library: "gnutls", Path: "/l", State: "failed", Reason: "not supported"}},
				Coverage: []*v1.Coverage{{Pid: 7, Process: "node\x1b", Reason: reason, TlsBytes: uint64(i)}}}},
			&v1.Finding{Id: "f:1", Rule: "r", Severity: "low", State: "open", Count: uint64(i)},
		} {
			if err := l.show(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.show(&v1.Finding{Id: "f:1", Rule: "r", Severity: "high", State: "open"}); err != nil {
		t.Fatal(err)
	}
	want := []string{"# watching everything on n (hooks: socket=tp_btf)", "# not seen: gnutls /l: not supported", "# finding (low) r",
		"# not decoded: node\ufffd (pid 7): static", "# finding (high) r"}
	got := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(got), len(want), out.String())
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("line %d: %q, want %q", i, got[i], want[i])
		}
	}
}

// TestLiveTellsOfEachRun: what an earlier run of an agent watched is no news of the one that runs now.
func TestLiveTellsOfEachRun(t *testing.T) {
	var out strings.Builder
	l := &live{world: World{Stdout: &out, Now: func() time.Time { return noon }}, told: map[string]bool{}}
	show := func(connected bool, epoch uint64, rungs map[string]string) {
		t.Helper()
		for range 2 {
			if err := l.show(&v1.Agent{Node: "n", Connected: connected, Health: &v1.Health{Epoch: epoch, Rungs: rungs}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	hooks := map[string]string{"socket": "tp_btf"}
	show(false, 0, nil) // an agent that never came
	show(true, 1, nil)
	show(true, 1, hooks)
	show(false, 1, hooks)
	show(true, 2, nil) // its next run is not there yet
	show(true, 2, hooks)
	const watching, away = "# watching everything on n (hooks: socket=tp_btf)\n", "# nothing is watched on n: its agent is away\n"
	if want := watching + away + watching; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

// TestNotesWrapOnATerminal: between words, and marked as notes in each line; elsewhere a note is one line.
func TestNotesWrapOnATerminal(t *testing.T) {
	for _, terminal := range []bool{true, false} {
		var out strings.Builder
		l := &live{world: World{Stdout: &out, Terminal: terminal, Width: 60, Env: []string{"NO_COLOR=1"}}}
		if err := l.note(faint, "not decoded: %s", strings.Repeat("some words ", 20)); err != nil {
			t.Fatal(err)
		}
		got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if !terminal && len(got) != 1 || terminal && len(got) != 5 {
			t.Errorf("terminal %t: %d lines: %q", terminal, len(got), got)
		}
		for _, line := range got {
			if terminal && len(line) > 60 || !strings.HasPrefix(line, "# ") {
				t.Errorf("a line of %d columns: %s", len(line), line)
			}
		}
	}
}
