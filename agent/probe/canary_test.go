package probe

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/target"
)

// careful is a Registry with canaries.
func careful(t *testing.T, p Programs, k Counters, dir string, canary time.Duration) *Registry {
	t.Helper()
	times := DefaultTimes()
	times.Canary, times.Survive, times.Sweep = canary, 50*time.Millisecond, 10*time.Millisecond
	r := registryOf(t, Config{Programs: p, Counters: k, DataDir: dir, Times: times})
	closeAtEnd(t, r)
	return r
}

func TestANewBuildIsProbedInOneProcessFirst(t *testing.T) {
	for _, multi := range []bool{true, false} {
		programs, dir := newCounting(t, multi), t.TempDir()
		path := library(t, t.TempDir())
		first, other := newCaller(t, path), newCaller(t, path)
		r := careful(t, programs, nil, dir, 700*time.Millisecond)
		f := described(t, path)
		if !r.Use(first.process(), f) || r.Use(other.process(), f) {
			t.Fatalf("multi=%v: %+v", multi, r.List())
		}
		first.call(t, 3)
		other.call(t, 5)
		if n := programs.hits(t, freed); n != 3 {
			t.Errorf("multi=%v: %d hits of 3 calls of the canary", multi, n)
		}
		if s := one(t, r); s.Phase != Canary || s.Processes != 2 {
			t.Errorf("multi=%v: %+v", multi, s)
		}
		if _, attached, _ := r.State(f.ID, first.process().PID); !attached {
			t.Error("the canary is said to be unseen")
		}
		if known, attached, why := r.State(f.ID, other.process().PID); !known || attached || !strings.Contains(why, "one process first") {
			t.Errorf("multi=%v: %v %v %q", multi, known, attached, why)
		}
		eventually(t, "all", func() bool { return phase(t, r) == Attached })
		before := programs.hits(t, freed)
		// The old probes may still be on their way out, and the canary is hit by both: bpf makes one call of that.
		eventually(t, "the canary's own probes to go", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.slotsOut) == 0
		})
		other.call(t, 5)
		if n := programs.hits(t, freed) - before; n != 5 {
			t.Errorf("multi=%v: %d hits of 5 calls", multi, n)
		}
		eventually(t, "it to survive", func() bool { return newLearned(dir, quiet()).survived(buildOf(f, ownerOf(f))) })
		later := careful(t, programs, nil, dir, time.Hour)
		if !later.Use(other.process(), f) || phase(t, later) != Attached {
			t.Errorf("multi=%v: what survived is doubted after a restart: %+v", multi, later.List())
		}
	}
}

func TestCanaryIsOverAfterEnoughHits(t *testing.T) {
	programs, k := newCounting(t, true), &kernel{}
	path := library(t, t.TempDir())
	c := newCaller(t, path)
	r := careful(t, programs, k, "", time.Hour)
	f := described(t, path)
	r.Use(c.process(), f)
	slot := r.slots.take(Placed{ID: f.ID, Program: freed, Class: classOf(f, "SSL_free")})
	k.hit(slot, canaryHits-1)
	time.Sleep(canaryLeast + 100*time.Millisecond)
	if s := one(t, r); s.Phase != Canary || s.Hits != canaryHits-1 {
		t.Fatalf("%+v", s)
	}
	k.hit(slot, 1)
	eventually(t, "the end", func() bool { return phase(t, r) == Attached })
}

// A canary that makes no call shows nothing: the others follow, and until there is a call that is told, and nothing counts
// as survived. It is watched from its first hit on.
func TestACanaryWithoutACall(t *testing.T) {
	programs, k, dir := newCounting(t, true), &kernel{}, t.TempDir()
	path := library(t, t.TempDir())
	c := newCaller(t, path)
	r := careful(t, programs, k, dir, 100*time.Millisecond)
	f := described(t, path)
	r.Use(c.process(), f)
	eventually(t, "all", func() bool { return phase(t, r) == Attached })
	time.Sleep(400 * time.Millisecond) // eight times what it takes to survive
	if s := one(t, r); s.Reason != unheard || r.learned.survived(buildOf(f, ownerOf(f))) {
		t.Fatalf("%+v", s)
	}
	if _, attached, _ := r.State(f.ID, c.process().PID); !attached {
		t.Error("it is said to be unseen")
	}
	if told, err := Learned(dir); err != nil || len(told.Silent) != 1 || !strings.Contains(told.Silent[0], path) {
		t.Errorf("%+v, %v", told, err)
	}
	slot := r.slots.take(Placed{ID: f.ID, Program: freed, Class: classOf(f, "SSL_free")})
	k.hit(slot, 1)
	eventually(t, "the first call", func() bool { return one(t, r).Reason == "" })
	k.hit(slot, canaryHits)
	eventually(t, "it to survive", func() bool { return newLearned(dir, quiet()).survived(buildOf(f, ownerOf(f))) })
	if told, err := Learned(dir); err != nil || len(told.Silent) != 0 {
		t.Errorf("%+v, %v", told, err)
	}
	// Another copy is known, and needs no call.
	other := library(t, t.TempDir())
	g := described(t, other)
	d := newCaller(t, other)
	if !r.Use(d.process(), g) {
		t.Fatalf("%+v", r.List())
	}
	for _, s := range r.List() {
		if s.Phase != Attached || s.Reason != "" {
			t.Errorf("%+v", s)
		}
	}
}

// The window of a canary begins with its first hit: one in its last moment does not end it at once.
func TestACanaryIsWatchedFromItsFirstHit(t *testing.T) {
	programs, k := newCounting(t, true), &kernel{}
	path := library(t, t.TempDir())
	c := newCaller(t, path)
	r := careful(t, programs, k, "", time.Second)
	f := described(t, path)
	r.Use(c.process(), f)
	slot := r.slots.take(Placed{ID: f.ID, Program: freed, Class: classOf(f, "SSL_free")})
	r.mu.Lock()
	e := r.files[key{f.ID, 0}]
	k.hit(slot, 1)
	e.canary.since = e.canary.since.Add(-time.Hour) // its time is long over
	r.mu.Unlock()
	hit := time.Now()
	eventually(t, "all", func() bool { return phase(t, r) == Attached })
	if waited := time.Since(hit); waited < canaryLeast {
		t.Errorf("watched for %v after the first hit", waited)
	}
}

func classOf(f target.File, symbol string) target.Class {
	for _, s := range f.Sites {
		if s.Symbol == symbol {
			return s.Class
		}
	}
	return ""
}

func TestACanaryThatEnds(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	r := careful(t, programs, nil, "", time.Hour)
	f := described(t, path)
	first, second := newCaller(t, path), newCaller(t, path)
	r.Use(first.process(), f)
	r.Use(second.process(), f)
	r.Drop(first.process(), f.ID)
	eventually(t, "the next", func() bool { _, attached, _ := r.State(f.ID, second.process().PID); return attached })
	if s := one(t, r); s.Phase != Canary {
		t.Errorf("%+v", s)
	}
	r.detaching.Wait()
	first.call(t, 2)
	second.call(t, 3)
	if n := programs.hits(t, freed); n != 3 {
		t.Errorf("%d hits of 3 calls", n)
	}
	// The last one ends: whoever comes is seen from its first call.
	r.Drop(second.process(), f.ID)
	eventually(t, "all", func() bool { return phase(t, r) == Draining })
	newCaller(t, path).call(t, 4)
	if n := programs.hits(t, freed); n != 7 {
		t.Errorf("%d hits of 7 calls", n)
	}
}

// TestACanaryThatEndedBefore hands on a process that is gone when its file is attached.
func TestACanaryThatEndedBefore(t *testing.T) {
	for _, multi := range []bool{true, false} {
		programs := newCounting(t, multi)
		path := library(t, t.TempDir())
		r := careful(t, programs, nil, "", time.Hour)
		gone := newCaller(t, path)
		gone.Process.Kill()
		gone.Wait()
		if !r.Use(gone.process(), described(t, path)) || phase(t, r) != Attached && phase(t, r) != Draining {
			t.Fatalf("multi=%v: %+v", multi, r.List())
		}
		newCaller(t, path).call(t, 4)
		if n := programs.hits(t, freed); n != 4 {
			t.Errorf("multi=%v: %d hits of 4 calls", multi, n)
		}
	}
}

func TestWhatNobodyMapsHasNoCanary(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	r := careful(t, programs, nil, "", time.Hour)
	if !r.Use(target.Process{}, described(t, path)) || phase(t, r) != Attached {
		t.Fatalf("%+v", r.List())
	}
	newCaller(t, path).call(t, 4)
	if n := programs.hits(t, freed); n != 4 {
		t.Errorf("%d hits of 4 calls", n)
	}
}

func TestADeniedCanaryIsNotResurrected(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c, f := newCaller(t, path), described(t, path)
	r := careful(t, programs, nil, t.TempDir(), 100*time.Millisecond)
	r.Use(c.process(), f)
	if err := r.Deny(f.ID, "it crashed", ""); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if phase(t, r) != Denied || r.learned.survived(buildOf(f, ownerOf(f))) || linksOn(t, path) != 0 {
		t.Errorf("%+v", r.List())
	}
}

func TestLearnedIsKept(t *testing.T) {
	dir := t.TempDir()
	l := newLearned(dir, quiet())
	b, p := build{id: "abc"}, &target.Place{Name: "call target", Offset: 0x1234, Enter: "a", Exit: "b"}
	l.agree(b, p)
	l.harmless(b)
	l.harmless(build{file: target.Identity{Ino: 7}})
	path := filepath.Join(dir, LearnedFile)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatal(st, err)
	}
	again := newLearned(dir, quiet())
	if again.inner(b, p) != agreed || !again.survived(b) || len(again.builds) != 1 {
		t.Errorf("%+v", again.builds)
	}
	moved := *p
	moved.Offset++
	if again.inner(b, &moved) != undecided {
		t.Error("a verdict about another place")
	}
	again.refuse(b, p, "12 of 128")
	again.agree(b, p)
	again.harmful(b)
	if third := newLearned(dir, quiet()); third.inner(b, p) != disagreed || third.survived(b) {
		t.Errorf("%+v", third.builds[b])
	}
	os.WriteFile(path, []byte("]"), 0o600)
	if broken := newLearned(dir, quiet()); len(broken.builds) != 0 {
		t.Errorf("%+v", broken.builds)
	}
	// Bounded, and what was not seen for longest goes.
	clock := time.Unix(1000, 0)
	l = newLearned("", quiet())
	l.now = func() time.Time { clock = clock.Add(time.Second); return clock }
	for i := range maxLearned + 5 {
		l.harmless(build{file: target.Identity{Ino: uint64(i)}})
	}
	if len(l.builds) != maxLearned || l.survived(build{file: target.Identity{Ino: 4}}) || !l.survived(build{file: target.Identity{Ino: 5}}) {
		t.Errorf("%d builds", len(l.builds))
	}
}

func TestSettled(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c, f := newCaller(t, path), described(t, path)
	r := careful(t, programs, nil, "", 300*time.Millisecond)
	r.Settled(t.Context())
	r.Use(c.process(), f)
	r.Settled(t.Context())
	if phase(t, r) != Attached {
		t.Errorf("%+v", r.List())
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	slow := careful(t, programs, nil, "", time.Hour)
	slow.Use(c.process(), f)
	slow.Settled(gone)
	if phase(t, slow) != Canary {
		t.Errorf("%+v", slow.List())
	}
}
