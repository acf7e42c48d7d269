package probe

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/target"
)

// alone is a file as it is wanted in one process only.
func alone(f target.File, c *caller) target.File {
	f.Only = c.process().PID
	return f
}

// isOut says that a process uses a file, and checks that it is suspended there.
func isOut(t *testing.T, r *Registry, c *caller, f target.File, why string) {
	t.Helper()
	if r.Use(c.process(), f) {
		t.Fatalf("attached while suspended: %+v", r.List())
	}
	for _, s := range r.List() {
		if s.Only != f.Only {
			continue
		}
		if s.Phase != Suspended || !strings.Contains(s.Reason, "suspended: "+why) {
			t.Errorf("%+v, want %q", s, why)
		}
	}
	if known, attached, reason := r.State(f.ID, c.process().PID); !known || attached || !strings.Contains(reason, why) {
		t.Errorf("%v %v %q, want %q", known, attached, reason, why)
	}
	if attached, again := r.Stands(f.ID, f.Only); attached || again {
		t.Errorf("stands: %v, to be handed on: %v", attached, again)
	}
}

// TestAProcessThatComesWhileSuspended is not probed, on its own no more than together with all others.
func TestAProcessThatComesWhileSuspended(t *testing.T) {
	for _, multi := range []bool{true, false} {
		t.Run(fmt.Sprintf("multi=%v", multi), func(t *testing.T) {
			programs := newCounting(t, multi)
			path := library(t, t.TempDir())
			first, second := newCaller(t, path), newCaller(t, path)
			f := described(t, path)
			r := knowing(t, programs, "")
			if !r.Use(first.process(), alone(f, first)) {
				t.Fatalf("%+v", r.List())
			}
			if !r.Suspend(f.ID, "trial", "it may crash", time.Hour) {
				t.Fatal("not suspended")
			}
			r.detaching.Wait()
			isOut(t, r, first, alone(f, first), "it may crash")
			isOut(t, r, second, alone(f, second), "it may crash")
			isOut(t, r, second, f, "it may crash")
			first.call(t, 3)
			second.call(t, 4)

			// What is for one process goes with it, and is not what the suspension hangs on.
			r.Drop(first.process(), f.ID)
			r.Drop(second.process(), f.ID)
			isOut(t, r, first, alone(f, first), "it may crash")
			first.call(t, 5)
			if n := programs.hits(t, freed); n != 0 {
				t.Errorf("%d hits while suspended", n)
			}
			at(r, time.Now().Add(time.Hour))
			if _, again := r.Stands(f.ID, first.process().PID); !again || !r.Use(first.process(), alone(f, first)) {
				t.Fatalf("its time is over: %v %+v", again, r.List())
			}
			first.call(t, 2)
			if n := programs.hits(t, freed); n != 2 {
				t.Errorf("%d hits of 2 calls", n)
			}
		})
	}
}

func TestAloneWhileSuspended(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c := newCaller(t, path)
	f := described(t, path)
	r := knowing(t, programs, "")
	r.Use(c.process(), f)
	r.Suspend(f.ID, "trial", "it may crash", time.Hour)
	r.Alone(f.ID, "process 7 is on the denylist")
	if known, attached, why := r.State(f.ID, c.process().PID); !known || attached || !strings.Contains(why, "it may crash") {
		t.Errorf("%v %v %q", known, attached, why)
	}
	isOut(t, r, c, alone(f, c), "it may crash")
	r.Alone(f.ID, "")
	isOut(t, r, c, f, "it may crash")
	r.detaching.Wait()
	c.call(t, 3)
	if n := programs.hits(t, freed); n != 0 {
		t.Errorf("%d hits while suspended", n)
	}
	if !r.Resume(f.ID, "trial") || !r.Use(c.process(), f) {
		t.Fatalf("%+v", r.List())
	}
	eventually(t, "what is for it alone to be left", func() bool { return one(t, r).Only == 0 })
	c.call(t, 3)
	if n := programs.hits(t, freed); n != 3 {
		t.Errorf("%d hits of 3 calls", n)
	}
}

func TestSuspendedForLonger(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c, f := newCaller(t, path), described(t, path)
	r := knowing(t, programs, "")
	r.Use(c.process(), f)
	begun := time.Now()
	at(r, begun)
	r.Suspend(f.ID, "governor", "it costs too much", time.Hour)
	at(r, begun.Add(54*time.Minute))
	if !r.Suspend(f.ID, "governor", "it costs too much still", time.Hour) {
		t.Error("suspended again, and said not to be")
	}
	if !r.Suspend(f.ID, "governor", "it costs too much still", time.Minute) {
		t.Error("suspended again, and said not to be")
	}
	until := begun.Add(114 * time.Minute)
	at(r, until.Add(-time.Second))
	isOut(t, r, c, f, "it costs too much still; it is attached again at "+until.UTC().Format(time.TimeOnly))
	at(r, until)
	if _, again := r.Stands(f.ID, 0); !again || !r.Use(c.process(), f) {
		t.Errorf("%+v", r.List())
	}
}

func TestTwoSuspendOneFile(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c, f := newCaller(t, path), described(t, path)
	r := knowing(t, programs, "")
	r.Use(c.process(), f)
	both := func() {
		t.Helper()
		if !r.Suspend(f.ID, "trial", "it may crash", 16*time.Minute) || !r.Suspend(f.ID, "governor", "it costs too much", time.Hour) {
			t.Fatal("not suspended")
		}
		isOut(t, r, c, f, "it costs too much") // who ends last is told
	}
	both()
	if !r.Resume(f.ID, "governor") || r.Resume(f.ID, "governor") || r.Resume(f.ID, "nobody") {
		t.Error("what the governor asked for can be taken back once")
	}
	isOut(t, r, c, f, "it may crash")
	both()
	r.Resume(f.ID, "trial")
	isOut(t, r, c, f, "it costs too much")
	both()
	begun := time.Now()
	at(r, begun.Add(17*time.Minute)) // the trial is over, and the governor still at it
	isOut(t, r, c, f, "it costs too much")
	if !r.Resume(f.ID, "governor") {
		t.Error("there was a suspension")
	}
	if s := one(t, r); s.Phase != Failed {
		t.Errorf("%+v", s)
	}
	if _, again := r.Stands(f.ID, 0); !again || !r.Use(c.process(), f) {
		t.Fatalf("%+v", r.List())
	}
	r.detaching.Wait()
	c.call(t, 3)
	if n := programs.hits(t, freed); n != 3 {
		t.Errorf("%d hits of 3 calls", n)
	}
}

// TestSuspendedWhileAttaching: what is on its way in does not arrive, even where the suspension is over before.
func TestSuspendedWhileAttaching(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c, f := newCaller(t, path), described(t, path)
	r := knowing(t, programs, "")
	e, isNew, _ := r.enter(c.process(), f)
	if !isNew || !r.Suspend(f.ID, "trial", "it may crash", time.Hour) {
		t.Fatal("not suspended")
	}
	if r.attach(e, c.process(), f) {
		t.Error("attached while suspended")
	}
	r.detaching.Wait()
	isOut(t, r, c, f, "it may crash")
	r.Resume(f.ID, "trial")
	if e, isNew, _ = r.enter(c.process(), f); !isNew {
		t.Fatalf("%+v", r.List())
	}
	r.Suspend(f.ID, "trial", "it may crash", time.Hour)
	r.Resume(f.ID, "trial")
	if r.attach(e, c.process(), f) {
		t.Error("what was begun before the suspension goes on after it")
	}
	r.detaching.Wait()
	if n := linksOn(t, path); n != 0 {
		t.Errorf("%d links", n)
	}
}

func TestSuspensionsAreBounded(t *testing.T) {
	s, now := suspensions{}, time.Now()
	file := func(i int) target.Identity { return target.Identity{Dev: 1, Ino: uint64(i)} }
	for i := range maxSuspended {
		s.add(file(i), "trial", suspension{now.Add(time.Hour + time.Duration(i)), "x"}, now)
	}
	if out, full := s.add(file(maxSuspended), "trial", suspension{now.Add(time.Minute), "x"}, now); !full || out != file(0) || len(s) != maxSuspended {
		t.Errorf("%v %v had to go, %d are left", full, out, len(s))
	}
	last := file(maxSuspended)
	for i := range 2 * maxSuspenders {
		s.add(last, fmt.Sprint("trial of ", i), suspension{now.Add(time.Hour), "x"}, now)
	}
	if n := len(s[last]); n > maxSuspenders+1 {
		t.Errorf("%d suspend one file", n)
	}
	for i := range 2 * maxSuspenders {
		s.end(last, fmt.Sprint("trial of ", i))
	}
	s.end(last, "trial")
	if _, is := s.of(last, now); !is {
		t.Error("one of many ended what others had asked for")
	}
	later := now.Add(2 * time.Hour)
	if _, full := s.add(last, "trial", suspension{later.Add(time.Second), "x"}, later); full || len(s) != 1 || len(s[last]) != 1 {
		t.Errorf("%d files after all that is over", len(s))
	}
}

// TestAnOverlaysNameIsSuspendedToo, also where the layer's is not in use any more.
func TestAnOverlaysNameIsSuspendedToo(t *testing.T) {
	now := time.Now()
	layer := target.Identity{Dev: 1, Ino: 2, Born: 3, BuildID: "aa"}
	overlay, other := layer, layer
	overlay.Dev, other.BuildID = 0, "bb"
	s := suspensions{}
	s.add(layer, "trial", suspension{now.Add(time.Hour), "x"}, now)
	if _, is := s.of(overlay, now); !is {
		t.Error("the overlay's name is not suspended")
	}
	if _, is := s.of(other, now); is {
		t.Error("what was written over it is suspended")
	}
	if !s.end(overlay, "trial") || len(s) != 0 {
		t.Error("still suspended")
	}
}
