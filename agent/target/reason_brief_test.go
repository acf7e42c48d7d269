package target

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/bpf"
)

// An executable on a file system that does not answer holds up nobody but the goroutine that opens it. A pipe without a
// writer is such a file: opening it waits.
func TestAnExecutableThatCannotBeOpenedNow(t *testing.T) {
	proc := t.TempDir()
	for pid, exe := range map[int]string{7: "pipe", 8: "/proc/self/exe"} {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if exe == "pipe" {
			if err := unix.Mkfifo(filepath.Join(dir, "exe"), 0o600); err != nil {
				t.Fatal(err)
			}
		} else if err := os.Symlink(exe, filepath.Join(dir, "exe")); err != nil {
			t.Fatal(err)
		}
	}
	e := explainer(unknownToProbe)
	e.Proc = proc
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.Hold(ctx)
	}()
	builds := &Builds{Proc: proc, Cache: e.Cache}
	began := time.Now()
	for range 10 * maxStarts {
		e.Started(7, 0, bpf.FileID{})
		builds.ID(7)
	}
	// Two waits for a build id, if the loop itself takes a second.
	if took := time.Since(began); took > time.Second {
		t.Errorf("held up for %v", took)
	}
	if n := len(e.brief.queue()); n < maxStarts-1 {
		t.Errorf("%d wait", n)
	}
	if id := builds.ID(8); id != "" {
		t.Errorf("%q was read past the one that hangs", id)
	}
	e.Close() // does not wait for it either
	cancel()
	// Let all that waits for the pipe go on.
	eventually(t, "the pipe to be opened", func() bool {
		w, err := os.OpenFile(filepath.Join(proc, "7/exe"), os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			w.Close()
		}
		select {
		case <-done:
		default:
			return false
		}
		builds.mu.Lock()
		defer builds.mu.Unlock()
		return !builds.reading
	})
	if len(e.brief.held) != 0 {
		t.Errorf("%d are held after Close", len(e.brief.held))
	}
	builds.resume = time.Time{}
	if want := e.Cache.BuildID("/proc", uint32(os.Getpid())); builds.ID(8) != want {
		t.Errorf("%q, want %q, once it answers again", builds.ID(8), want)
	}
}

// What is opened by the number of a process must be what the kernel told of.
func TestAnotherProgramIsNotHeld(t *testing.T) {
	e := explainer(unknownToProbe)
	defer e.Close()
	c := run(t, "/bin/sleep", "60")
	sleeper := uint32(c.Process.Pid)
	eventually(t, "exec", func() bool {
		_, _, exe, _ := exeOf("/proc", sleeper)
		return filepath.Base(exe) != filepath.Base(os.Args[0])
	})
	own, _, err := readProcess("/proc", sleeper)
	if err != nil {
		t.Fatal(err)
	}
	id, exact, _, err := exeOf("/proc", sleeper)
	if err != nil || !exact {
		t.Fatalf("%v, exact %v", err, exact)
	}
	start := time.Duration(own.Start) * tick
	for name, tc := range map[string]struct {
		s    started
		held bool
	}{
		"itself":          {started{life{sleeper, start + tick/2}, id}, true},
		"exe not known":   {started{life{sleeper, start}, bpf.FileID{}}, true},
		"another inode":   {started{life{sleeper, start}, bpf.FileID{Dev: id.Dev, Ino: id.Ino + 1}}, false},
		"another device":  {started{life{sleeper, start}, bpf.FileID{Dev: id.Dev + 1, Ino: id.Ino}}, false},
		"an older number": {started{life{sleeper, start - tick}, id}, false},
	} {
		if e.hold(tc.s); e.brief.holds(tc.s.of) != tc.held {
			t.Errorf("%s: held %v, want %v", name, !tc.held, tc.held)
		}
		e.brief.release(tc.s.of)
	}
}
