package probe

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spile/spile/agent/target"
)

// undecidedSlot is the slot that counts the checks of the inner place of a function.
func undecidedSlot(t *testing.T, r *Registry, f target.File, symbol string) uint32 {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	groups := r.files[key{f.ID, f.Only}].at.undecided()
	for _, s := range f.Sites {
		if s.Symbol == symbol && s.Inner != nil {
			return groups[*s.Inner]
		}
	}
	return 0
}

func line(s State, symbol string) string {
	for _, l := range s.Sites {
		if strings.HasPrefix(l, symbol+":") {
			return l
		}
	}
	return ""
}

// TestEachPlaceIsDecidedOnItsOwn has reads that agree and writes that do not.
func TestEachPlaceIsDecidedOnItsOwn(t *testing.T) {
	for _, multi := range []bool{true, false} {
		programs, k, dir := newCounting(t, multi), &kernel{}, t.TempDir()
		path := library(t, t.TempDir())
		c, f := newCaller(t, path), described(t, path)
		if groupsOf(f) != 2 {
			t.Skipf("this libssl has no cheaper places: %v", f.Explain())
		}
		times := DefaultTimes()
		times.Canary, times.Exits, times.Sweep = 0, 200*time.Millisecond, 10*time.Millisecond
		r := registryOf(t, Config{Programs: programs, Counters: k, DataDir: dir, Times: times})
		closeAtEnd(t, r)
		r.Use(c.process(), f)
		read, write := undecidedSlot(t, r, f, "SSL_read"), undecidedSlot(t, r, f, "SSL_write")
		if read == 0 || write == 0 || read == write || undecidedSlot(t, r, f, "SSL_read_ex") != read {
			t.Fatalf("multi=%v: slots %d and %d", multi, read, write)
		}
		k.check(read, 0, 3) // before the first look: calls that were inside already
		at := r.files[key{f.ID, 0}].at
		eventually(t, "the first look", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(at.checks) == 2
		})
		k.check(read, enoughChecks-1, 0)
		time.Sleep(50 * time.Millisecond)
		if s := one(t, r); !strings.Contains(line(s, "SSL_read"), "; inner: ") {
			t.Fatalf("multi=%v: decided too soon: %q", multi, s.Sites)
		}
		k.check(read, 1, 0)
		k.check(write, moreChecks-28, 28)
		eventually(t, "both", func() bool {
			s := one(t, r)
			return strings.HasPrefix(line(s, "SSL_read"), "SSL_read: call target of") && strings.Contains(line(s, "SSL_write"), "is not used: other calls were seen there, 28 of 128; it is tried again after ")
		})
		if s := one(t, r); !strings.HasPrefix(line(s, "SSL_read_ex"), "SSL_read_ex: call target of") || !strings.Contains(line(s, "SSL_write_ex"), "is not used") {
			t.Errorf("multi=%v: %q", multi, s.Sites)
		}
		// The return probes of the entries that went are there for a while, for calls that are inside.
		eventually(t, "the old return probes to go", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, p := range at.parts {
				if !p.until.IsZero() || p.role == check {
					return false
				}
			}
			return true
		})
		r.detaching.Wait()
		got := map[string]int{}
		for _, p := range at.parts {
			got[fmt.Sprint(p.program, " ", p.role)] += len(p.links)
		}
		for what, want := range map[string]int{
			"ssl_read_ex_enter 1": 1, "ssl_read_ex_exit 1": 1, "ssl_write_enter 0": 1, "ssl_write_ex_enter 0": 1, "ssl_free_enter 0": 1,
			"ssl_read_enter 0": 0, "ssl_read_exit 0": 0, "ssl_read_ex_enter 0": 0, "ssl_check 2": 0, "ssl_write_ex_enter 1": 0,
		} {
			if got[what] != want {
				t.Errorf("multi=%v: %d links of %s, want %d: %v", multi, got[what], what, want, got)
			}
		}
		// What was learned is used at once, also for another copy.
		other := library(t, t.TempDir())
		g := described(t, other)
		d := newCaller(t, other)
		r.Use(d.process(), g)
		if n := undecidedSlot(t, r, g, "SSL_read"); n != 0 {
			t.Errorf("multi=%v: asked again", multi)
		}
		for _, p := range r.files[key{g.ID, 0}].at.parts {
			if p.program == "ssl_read_enter" {
				t.Errorf("multi=%v: the copy is probed at %q", multi, p.symbols)
			}
		}
		d.call(t, 2)
	}
}

// TestAPlaceThatTheKernelRefuses falls back to what is known to be good.
func TestAPlaceThatTheKernelRefuses(t *testing.T) {
	programs, k := newCounting(t, true), &kernel{}
	path := library(t, t.TempDir())
	c, f := newCaller(t, path), described(t, path)
	bad := target.Place{Name: "beyond", Offset: 1 << 40, Class: target.Emulated, Enter: "ssl_read_ex_enter", Exit: "ssl_read_ex_exit"}
	for i := range f.Sites {
		f.Sites[i].Inner = nil
		if strings.HasPrefix(f.Sites[i].Symbol, "SSL_read") {
			f.Sites[i].Inner = &bad
		}
	}
	r := registryOf(t, Config{Programs: programs, Counters: k, Times: DefaultTimes()})
	closeAtEnd(t, r)
	r.learned.agree(buildOf(f, ownerOf(f)), &bad)
	r.learned.harmless(buildOf(f, ownerOf(f)))
	if !r.Use(c.process(), f) {
		t.Fatalf("%+v", r.List())
	}
	c.call(t, 3)
	if n := programs.hits(t, freed); n != 3 {
		t.Errorf("%d hits of 3 calls", n)
	}
}

// A call inside another comes to the inner place alone: a few of them do not decide, and what was decided is looked at again.
func TestADisagreementIsNotForEver(t *testing.T) {
	programs, k, dir := newCounting(t, true), &kernel{}, t.TempDir()
	path := library(t, t.TempDir())
	c, f := newCaller(t, path), described(t, path)
	if groupsOf(f) != 2 {
		t.Skipf("this libssl has no cheaper places: %v", f.Explain())
	}
	times := DefaultTimes()
	times.Canary, times.Check, times.Exits = 0, 10*time.Millisecond, 50*time.Millisecond
	r := registryOf(t, Config{Programs: programs, Counters: k, DataDir: dir, Times: times})
	closeAtEnd(t, r)
	var late atomic.Int64
	r.learned.now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	r.Use(c.process(), f)
	first := func() {
		t.Helper()
		eventually(t, "the first look", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			at := r.files[key{f.ID, 0}].at
			for group := range at.undecided() {
				if at.checks[group] == nil {
					return false
				}
			}
			return true
		})
	}
	is := func(symbol, what string) func() bool {
		return func() bool { return strings.Contains(line(one(t, r), symbol), what) }
	}
	first()
	read, write := undecidedSlot(t, r, f, "SSL_read"), undecidedSlot(t, r, f, "SSL_write")
	k.check(write, enoughChecks, 1) // not enough to decide with one that differs
	k.check(read, moreChecks/2, moreChecks/2)
	eventually(t, "reads to stay", is("SSL_read", "is not used: other calls were seen there, 64 of 128; it is tried again after "))
	if !is("SSL_write", "; inner: ")() {
		t.Fatalf("decided by one call: %q", one(t, r).Sites)
	}
	k.check(write, moreChecks, 0)
	eventually(t, "writes to move", is("SSL_write", "SSL_write: call target of"))
	if told, err := Learned(dir); err != nil || len(told.Doubts) != 1 || !strings.Contains(told.Doubts[0], f.ID.BuildID) || !strings.Contains(told.Doubts[0], "64 of 128") {
		t.Errorf("%+v, %v", told, err)
	}

	// It is tried again later, and later still, and then no more.
	for _, wait := range []time.Duration{firstRetry, firstRetry * retryGrows} {
		if n := undecidedSlot(t, r, f, "SSL_read"); n != 0 {
			t.Fatalf("before %v are over it is verified again", wait)
		}
		r.mu.Lock()
		at := r.files[key{f.ID, 0}].at
		late.Add(int64(wait + time.Second))
		at.again = time.Time{}.Add(1)
		r.mu.Unlock()
		r.soon()
		eventually(t, "it to be verified again", func() bool { return undecidedSlot(t, r, f, "SSL_read") != 0 })
		first()
		k.check(undecidedSlot(t, r, f, "SSL_read"), 0, moreChecks)
		eventually(t, "it to be refused again", func() bool { return undecidedSlot(t, r, f, "SSL_read") == 0 })
		if strings.Contains(line(one(t, r), "SSL_write"), "not used") {
			t.Errorf("writes moved back: %q", one(t, r).Sites)
		}
	}
	eventually(t, "the end of it", is("SSL_read", "after 3 tries it is left at that"))
	late.Add(int64(1000 * time.Hour))
	if got := r.learned.inner(buildOf(f, ownerOf(f)), f.Sites[0].Inner); got == undecided {
		t.Error("it is tried for ever")
	}
	if n := programs.hits(t, freed); n != 0 {
		t.Fatal(n)
	}
	c.call(t, 5)
	if n := programs.hits(t, freed); n != 5 {
		t.Errorf("%d hits of 5 calls", n)
	}
}

// What an agent refused that knew no doubts is tried again.
func TestAnOldRefusalIsTriedAgain(t *testing.T) {
	l := newLearned("", quiet())
	b, p := build{id: "x"}, &target.Place{Offset: 1}
	l.builds[b] = &lesson{Inner: map[string]verdict{placeKey(p): disagreed}}
	if got := l.inner(b, p); got != undecided {
		t.Errorf("%v", got)
	}
	if l.agree(b, p); l.inner(b, p) != agreed {
		t.Errorf("%+v", l.builds[b])
	}
}
