package probe

import (
	"slices"
	"testing"
	"time"

	"github.com/spile/spile/agent/target"
)

// A crash tells an address, and by its place in the page the file whose probe may lie there, as long as it is known.
func TestMayLie(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	r := careful(t, programs, nil, "", 0)
	f := described(t, path)
	c := newCaller(t, path)
	if r.Use(c.process(), f); phase(t, r) != Attached {
		t.Fatalf("%+v", r.List())
	}
	all := []target.Identity{f.ID}
	if got := r.InAll(0); !slices.Equal(got, all) {
		t.Errorf("in all: %v", got)
	}
	const base = 0x7f12_3456_7000
	for _, s := range f.Sites {
		if got := r.MayLie(all, base+s.Offset); !slices.Equal(got, all) {
			t.Errorf("%s: %v", s.Symbol, got)
		}
		if got := r.MayLie(nil, base+s.Offset); got != nil {
			t.Errorf("%s, of other files: %v", s.Symbol, got)
		}
	}
	free := uint64(0)
	for slices.ContainsFunc(placesOf(f.Sites), func(at uint64) bool { return (at-free)%pageBytes == 0 }) {
		free++
	}
	if got := r.MayLie(all, base+free); got != nil {
		t.Errorf("where no probe lies: %v", got)
	}
	// What is left behind in a program is there when the file is not probed any more.
	r.Suspend(f.ID, "test", "to see", time.Hour)
	if got := r.MayLie(all, base+f.Sites[0].Offset); !slices.Equal(got, all) || r.InAll(0) != nil {
		t.Errorf("suspended: %v, in all %v", got, r.InAll(0))
	}
}

// A canary's file is probed in one process: it is in no others.
func TestACanaryIsNotInAll(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	r := careful(t, programs, nil, "", time.Hour)
	r.Use(newCaller(t, path).process(), described(t, path))
	if got := r.InAll(0); got != nil || phase(t, r) != Canary {
		t.Errorf("%v, %+v", got, r.List())
	}
}

// A program that nobody follows does not map another program that is probed.
func TestAProgramIsInItselfAlone(t *testing.T) {
	programs := newCounting(t, true)
	r := careful(t, programs, nil, "", 0)
	f := described(t, library(t, t.TempDir()))
	f.Library = "Go crypto/tls"
	if !r.Use(target.Process{}, f) {
		t.Fatalf("%+v", r.List())
	}
	if got := r.InAll(f.ID.Ino + 1); got != nil {
		t.Errorf("in another: %v", got)
	}
	if got := r.InAll(f.ID.Ino); !slices.Equal(got, []target.Identity{f.ID}) {
		t.Errorf("in itself: %v", got)
	}
}
