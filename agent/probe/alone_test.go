package probe

import (
	"strings"
	"testing"
)

func TestAFileThatMustNotBeAttachedForAll(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	a, barred := newCaller(t, path), newCaller(t, path)
	r := registry(t, programs, DefaultTimes())
	f := described(t, path)
	r.Use(a.process(), f)
	r.Alone(f.ID, "process 7 is on the denylist")
	eventually(t, "the probes to be out", func() bool { return linksOn(t, path) == 0 })
	if r.Use(a.process(), f) || len(r.List()) != 0 {
		t.Errorf("attached for all: %+v", r.List())
	}
	if known, attached, why := r.State(f.ID, a.process().PID); !known || attached || !strings.Contains(why, "process 7 is on the denylist; ") {
		t.Errorf("%v %v %q", known, attached, why)
	}
	own := f
	own.Only = a.process().PID
	if !r.Use(a.process(), own) {
		t.Fatalf("%+v", r.List())
	}
	if _, attached, _ := r.State(f.ID, own.Only); !attached {
		t.Error("attached to it, and said not to be")
	}
	a.call(t, 3)
	barred.call(t, 4)
	if n := programs.hits(t, freed); n != 3 {
		t.Errorf("%d hits of 3 calls", n)
	}
	r.Alone(f.ID, "")
	if !r.Use(a.process(), f) {
		t.Fatalf("%+v", r.List())
	}
	eventually(t, "what is for all alone to be left", func() bool { return one(t, r).Only == 0 })
	r.detaching.Wait()
	a.call(t, 3)
	barred.call(t, 4)
	if n := programs.hits(t, freed); n != 10 {
		t.Errorf("%d hits of 10 calls", n)
	}
}
