package main

import (
	"slices"
	"testing"
	"time"

	"github.com/spile/spile/agent/source"
	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
)

// wards is a host that remembers who suspended what.
type wards struct {
	registry
	by []string
}

func (w *wards) Suspend(id target.Identity, by, why string, d time.Duration) bool {
	w.by = append(w.by, by)
	return w.registry.Suspend(id, by, why, d)
}

func (w *wards) Resume(id target.Identity, by string) bool {
	w.by = slices.DeleteFunc(w.by, func(x string) bool { return x == by })
	return true
}

// TestTwoTrialsOfOneLibrary: a program that crashes on without probes says nothing about another.
func TestTwoTrialsOfOneLibrary(t *testing.T) {
	w := &wards{}
	g, log := testCrashes(&w.registry)
	g.quarantine = w
	other := func(p source.Process) source.Process {
		p.Exe.Ino++
		return p
	}
	g.play(died(10, inside), died(20, inside), died(30, inside))
	g.play(other(died(11, inside)), other(died(21, inside)), other(died(31, inside)))
	if len(w.by) != 2 || w.by[0] == w.by[1] {
		t.Fatalf("suspended by %q, log:\n%s", w.by, log)
	}
	second := w.by[1]
	bare := bpf.Crash{Signal: 11, Code: 1}
	g.play(died(40, bare), died(50, bare))
	if !slices.Equal(w.by, []string{second}) {
		t.Errorf("suspended by %q, want %q alone; log:\n%s", w.by, second, log)
	}
}
