package probe

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/target"
)

func TestFailuresSayWhatWhyAndWhatToDo(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	f := described(t, path)
	missing := *programs
	missing.programs = nil
	bad := f
	bad.Sites = []target.Site{{Symbol: "SSL_read", Offset: 1 << 40, Enter: "ssl_read_enter"}}
	unread := f
	unread.Problem, unread.Handle, unread.Sites = errors.New("open it: there is no such file"), nil, nil
	for name, tc := range map[string]struct {
		programs Programs
		file     target.File
		says     []string
	}{
		"program missing": {&missing, f, []string{"attach SSL_", path, "is not loaded", "reinstall"}},
		"bad place":       {programs, bad, []string{"attach SSL_read to " + path, "no code at this place", "reinstall the file"}},
		"no sites":        {programs, target.File{ID: f.ID, Path: path, Handle: f.Handle}, []string{path, "no place", "another build"}},
		"unread":          {programs, unread, []string{"there is no such file"}},
	} {
		before := descriptors(t)
		r := registry(t, tc.programs, DefaultTimes())
		r.Use(target.Process{PID: 1}, tc.file)
		s := one(t, r)
		for _, want := range tc.says {
			if s.Phase != Failed || !strings.Contains(s.Reason, want) || strings.Contains(s.Reason, "\n") {
				t.Errorf("%s: %+v does not say %q in one line", name, s, want)
			}
		}
		if known, attached, reason := r.State(tc.file.ID, 0); !known || attached || reason != s.Reason {
			t.Errorf("%s: state %v %v %q", name, known, attached, reason)
		}
		if after := descriptors(t); after != before {
			t.Errorf("%s: %d descriptors, then %d", name, before, after)
		}
	}
}

func TestFailureHalfWayLeavesNothing(t *testing.T) {
	for _, multi := range []bool{true, false} {
		programs := newCounting(t, multi)
		path := library(t, t.TempDir())
		c := newCaller(t, path)
		f := described(t, path)
		for i := range f.Sites {
			if f.Sites[i].Symbol == "SSL_write" {
				f.Sites[i].Offset = 1 << 40
			}
		}
		f.Sites = append(f.Sites[len(f.Sites)-1:], f.Sites[:len(f.Sites)-1]...) // SSL_free first
		for i := range f.Sites {
			f.Sites[i].Exit = ""
		}
		r := registry(t, programs, DefaultTimes())
		r.Use(c.process(), f)
		c.call(t, 5)
		if n := programs.hits(t, freed); n != 0 || one(t, r).Phase != Failed {
			t.Errorf("multi=%v: %d hits of a file that is %s", multi, n, one(t, r).Phase)
		}
	}
}

func TestFailureIsRememberedThenTriedAgain(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	good := described(t, path)
	bad := good
	bad.Problem = errors.New("not today")
	r := registry(t, programs, DefaultTimes())
	r.Use(target.Process{PID: 1}, bad)
	r.Use(target.Process{PID: 2}, good)
	if s := one(t, r); s.Phase != Failed || s.Processes != 2 {
		t.Errorf("tried again at once: %+v", s)
	}
	at(r, time.Now().Add(DefaultTimes().Forget))
	r.Use(target.Process{PID: 3}, good)
	if s := one(t, r); s.Phase != Attached || s.Reason != "" {
		t.Errorf("not tried again: %+v", s)
	}
}

func TestCloseIsBounded(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c := newCaller(t, path)
	r := registryOf(t, Config{Programs: programs, Times: DefaultTimes()})
	f := described(t, path)
	r.Use(c.process(), f)
	r.detaching.Add(1) // a detach that does not end
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := r.Close(ctx); !errors.Is(err, ErrLeft) || time.Since(began) > 2*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	r.detaching.Done()
	if err := r.Close(context.Background()); err != nil {
		t.Errorf("again: %v", err)
	}
	r.Use(c.process(), f)
	r.Drop(c.process(), f.ID)
	c.call(t, 3)
	if n := programs.hits(t, freed); n != 0 || len(r.List()) != 0 {
		t.Errorf("%d hits and %d files after Close", n, len(r.List()))
	}
}
