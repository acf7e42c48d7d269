package probe

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/target"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// knowing is a Registry over a data directory.
func knowing(t *testing.T, p Programs, dir string) *Registry {
	t.Helper()
	times := DefaultTimes()
	times.Canary, times.Sweep = 0, 10*time.Millisecond
	r := registryOf(t, Config{Programs: p, DataDir: dir, Times: times})
	closeAtEnd(t, r)
	return r
}

func TestDenyDetachesAtOnceAndStays(t *testing.T) {
	for _, multi := range []bool{true, false} {
		programs, dir := newCounting(t, multi), t.TempDir()
		path, copied := library(t, t.TempDir()), library(t, t.TempDir())
		c, d := newCaller(t, path), newCaller(t, copied)
		r := knowing(t, programs, dir)
		f := described(t, path)
		if !r.Use(c.process(), f) || !r.Use(d.process(), described(t, copied)) {
			t.Fatalf("%+v", r.List())
		}
		began := time.Now()
		if err := r.Deny(f.ID, "it crashed", "SIGTRAP\nat our site"); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		if limit := mostWaitByPerf; took > time.Second && multi || took > limit {
			t.Errorf("multi=%v: detached after %v", multi, took)
		}
		t.Logf("multi=%v: two files detached after %v", multi, took)
		c.call(t, 3)
		d.call(t, 3) // the same build at another place
		if n := programs.hits(t, freed); n != 0 || linksOn(t, path) != 0 {
			t.Errorf("multi=%v: %d hits, %d links", multi, n, linksOn(t, path))
		}
		for _, s := range r.List() {
			if s.Phase != Denied || !strings.Contains(s.Reason, "denied: it crashed; spile-agent allow "+f.ID.BuildID) {
				t.Errorf("multi=%v: %+v", multi, s)
			}
		}
		if r.Use(c.process(), f) {
			t.Error("attached again")
		}
		if known, attached, reason := r.State(f.ID, c.process().PID); !known || attached || !strings.Contains(reason, "it crashed") {
			t.Errorf("%v %v %q", known, attached, reason)
		}
		if st, err := os.Stat(filepath.Join(dir, DeniedFile)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", st, err)
		}
		// Another agent with the same data.
		later := knowing(t, programs, dir)
		if later.Use(c.process(), f) || one(t, later).Phase != Denied {
			t.Errorf("after a restart: %+v", later.List())
		}
		list, err := Denials(dir)
		if err != nil || len(list) != 1 || list[0].Path != path && list[0].Path != copied || list[0].Evidence != "SIGTRAP; at our site" || list[0].Library != "OpenSSL" {
			t.Errorf("%+v %v", list, err)
		}
		if none, err := Allow(dir, "another"); err != nil || len(none) != 0 {
			t.Errorf("%v %v", none, err)
		}
		if allowed, err := Allow(dir, f.ID.BuildID); err != nil || len(allowed) != 1 {
			t.Errorf("%v %v", allowed, err)
		}
		// Both agents notice, and take the file when it is handed on.
		for _, r := range []*Registry{r, later} {
			eventually(t, "the list to be read", func() bool { _, again := r.Stands(f.ID, 0); return again })
			if !r.Use(c.process(), f) {
				t.Errorf("%+v", r.List())
			}
		}
	}
}

func TestDenyWithoutABuildID(t *testing.T) {
	programs, dir := newCounting(t, true), t.TempDir()
	path := library(t, t.TempDir())
	c, f := newCaller(t, path), described(t, path)
	f.ID.BuildID = ""
	r := knowing(t, programs, dir)
	if err := r.Deny(f.ID, "why", ""); err == nil {
		t.Error("a file that nobody knows was denied")
	}
	r.Use(c.process(), f)
	if err := r.Deny(f.ID, "why", ""); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("%d:%d", f.ID.Dev, f.ID.Ino)
	if s := one(t, r); s.Phase != Denied || !strings.Contains(s.Reason, "spile-agent allow "+name) {
		t.Errorf("%+v", s)
	}
	if later := knowing(t, programs, dir); later.Use(c.process(), f) {
		t.Errorf("after a restart: %+v", later.List())
	}
	if allowed, err := Allow(dir, name); err != nil || len(allowed) != 1 || allowed[0].Path != path {
		t.Errorf("%+v %v", allowed, err)
	}
}

// Who may write a file may give it the build id of the host's library, and crash in it.
func TestAForgedBuildIDDeniesItsOwnFile(t *testing.T) {
	for what, make := range map[string]func(path string) error{
		"of a user":            func(path string) error { return os.Chown(path, 65534, 0) },
		"writable for a group": func(path string) error { return errors.Join(os.Chown(path, 0, 65534), os.Chmod(path, 0o775)) },
		"writable for all":     func(path string) error { return os.Chmod(path, 0o757) },
	} {
		t.Run(what, func(t *testing.T) {
			programs, dir := newCounting(t, true), t.TempDir()
			real, forged := library(t, t.TempDir()), library(t, t.TempDir())
			if err := make(forged); err != nil {
				t.Fatal(err)
			}
			c, attacker := newCaller(t, real), newCaller(t, forged)
			r := knowing(t, programs, dir)
			f, g := described(t, real), described(t, forged)
			if f.ID.BuildID == "" || f.ID.BuildID != g.ID.BuildID {
				t.Fatalf("%v and %v", f.ID, g.ID)
			}
			if !r.Use(c.process(), f) || !r.Use(attacker.process(), g) {
				t.Fatalf("%+v", r.List())
			}
			if err := r.Deny(g.ID, "it crashed", ""); err != nil {
				t.Fatal(err)
			}
			c.call(t, 3)
			attacker.call(t, 5)
			if n := programs.hits(t, freed); n != 3 {
				t.Errorf("%d hits of 3 calls of the real library: %+v", n, r.List())
			}
			// It is told, kept and lifted as what it is.
			for _, s := range r.List() {
				if s.ID == g.ID && (s.Phase != Denied || !strings.Contains(s.Reason, "this file alone")) {
					t.Errorf("%+v", s)
				}
			}
			later := knowing(t, programs, dir)
			if !later.Use(c.process(), f) || later.Use(attacker.process(), g) {
				t.Errorf("after a restart: %+v", later.List())
			}
			list, err := Denials(dir)
			if err != nil || len(list) != 1 || list[0].File == nil || list[0].File.Inode != g.ID.Ino || list[0].BuildID != g.ID.BuildID {
				t.Fatalf("%+v %v", list, err)
			}
			if allowed, err := Allow(dir, list[0].Name()); err != nil || len(allowed) != 1 {
				t.Errorf("%v %v", allowed, err)
			}
			eventually(t, "the list to be read", func() bool { _, again := r.Stands(g.ID, 0); return again })
			if !r.Use(attacker.process(), g) {
				t.Errorf("allowed: %+v", r.List())
			}
			// What the host's library did holds for a copy of it in whosever hands.
			if err := r.Deny(f.ID, "it crashed", ""); err != nil {
				t.Fatal(err)
			}
			for _, s := range r.List() {
				if s.Phase != Denied {
					t.Errorf("%+v", s)
				}
			}
		})
	}
}

// Nor does it vouch for the host's library.
func TestAForgedBuildIDTeachesNothing(t *testing.T) {
	path := library(t, t.TempDir())
	if err := os.Chmod(path, 0o757); err != nil {
		t.Fatal(err)
	}
	g := described(t, path)
	b := buildOf(g, ownerOf(g))
	l := newLearned("", quiet())
	l.harmless(b)
	if l.survived(build{id: g.ID.BuildID}) || !l.survived(b) {
		t.Errorf("%+v", l.builds)
	}
}

func TestAListThatCannotBeReadIsNotEmpty(t *testing.T) {
	for _, text := range []string{"{", `{"denied": [{"path": "/x"}]}`, `{"denied": 7}`} {
		dir := t.TempDir()
		path := filepath.Join(dir, DeniedFile)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{Programs: nobody{}, DataDir: dir, Times: DefaultTimes()}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", text, err)
		}
	}
	// While the agent runs, what it knew stays in force.
	dir := t.TempDir()
	d, err := newDenied(dir, quiet())
	if err != nil {
		t.Fatal(err)
	}
	b := build{id: "aa"}
	d.deny(b, Denial{BuildID: "aa", Why: "x"})
	if err := d.keep(b, Denial{BuildID: "aa", Why: "x"}); err != nil || !d.refresh() {
		t.Fatal(err)
	}
	os.WriteFile(d.path, []byte("{"), 0o600)
	if d.refresh() || d.why(b) == "" {
		t.Error("a broken file allowed a build")
	}
	os.WriteFile(d.path, []byte(`{"denied": [{"build_id": "bb", "why": "by hand"}]}`), 0o600)
	if !d.refresh() || d.why(b) != "" || !strings.HasPrefix(d.why(build{id: "bb"}), "by hand; ") {
		t.Errorf("%q %q", d.why(b), d.why(build{id: "bb"}))
	}
	os.Remove(d.path)
	if !d.refresh() || d.why(build{id: "bb"}) != "" {
		t.Error("the file is gone, and something is denied")
	}
}

func TestTheListIsBounded(t *testing.T) {
	dir := t.TempDir()
	d, err := newDenied(dir, quiet())
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxDenied + 3 {
		b := build{id: fmt.Sprint("b", i)}
		x := Denial{BuildID: b.id, When: time.Unix(int64(i), 0)}
		d.deny(b, x)
		if i%100 == 0 || i >= maxDenied-1 {
			if err := d.keep(b, x); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(d.builds) != maxDenied || d.why(build{id: "b0"}) != "" || d.why(build{id: fmt.Sprint("b", maxDenied+2)}) == "" {
		t.Errorf("%d builds", len(d.builds))
	}
	if allowed, err := Allow(dir, ""); err != nil || len(allowed) == 0 {
		t.Errorf("%d %v", len(allowed), err)
	}
	if left, err := Denials(dir); err != nil || len(left) != 0 {
		t.Errorf("%v %v", left, err)
	}
	if none, err := Allow(t.TempDir(), ""); err != nil || len(none) != 0 {
		t.Errorf("%v %v", none, err)
	}
}

func TestSuspendedThenBack(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c, f := newCaller(t, path), described(t, path)
	r := knowing(t, programs, "")
	r.Use(c.process(), f)
	if r.Suspend(target.Identity{Ino: 99}, "governor", "x", time.Second) {
		t.Error("suspended what is not there")
	}
	if !r.Suspend(f.ID, "governor", "it costs 2 cores of 1", time.Hour) {
		t.Fatal("not suspended")
	}
	eventually(t, "the probes to be out", func() bool { return linksOn(t, path) == 0 })
	c.call(t, 4)
	if s := one(t, r); s.Phase != Suspended || !strings.Contains(s.Reason, "it costs 2 cores of 1; it is attached again at") {
		t.Errorf("%+v", s)
	}
	if attached, again := r.Stands(f.ID, 0); attached || again || r.Use(c.process(), f) {
		t.Error("back before its time")
	}
	at(r, time.Now().Add(time.Hour))
	if attached, again := r.Stands(f.ID, 0); attached || !again || !r.Use(c.process(), f) {
		t.Errorf("%v %v %+v", attached, again, r.List())
	}
	c.call(t, 3)
	if n := programs.hits(t, freed); n != 3 {
		t.Errorf("%d hits of 3 calls before and after", n)
	}
}
