package target

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeProc is a procfs of one process, whose life is written by hand.
type fakeProc struct {
	dir string
}

func newFakeProc(t *testing.T, pid int) *fakeProc {
	t.Helper()
	p := &fakeProc{dir: filepath.Join(t.TempDir(), fmt.Sprint(pid))}
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(p.dir, "root")); err != nil {
		t.Fatal(err)
	}
	return p
}

// write says when the process began and what it maps. The size of its address space changes with every line.
func (p *fakeProc) write(t *testing.T, start int, libraries ...string) {
	t.Helper()
	maps := "7f00-7f01 r-xp 0 00:00 0 [vdso]\n"
	for i, path := range libraries {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		maps += fmt.Sprintf("8f0%d-8f1%d r-xp 00001000 %02x:%02x %d %s\n", i, i, unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino, path)
	}
	for name, text := range map[string]string{
		"stat":  fmt.Sprintf("1 (an (odd) name) S 0%s %d 0\n", strings.Repeat(" 0", 17), start),
		"maps":  maps,
		"statm": fmt.Sprintf("%d 0 0 0 0 0 0\n", len(maps)),
	} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func (l *ledger) usersOf(path string) map[Process]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, f := range l.files {
		if f.Path == path {
			return l.users[id]
		}
	}
	return nil
}

func TestWatcherKnowsAProcessFromItsSuccessor(t *testing.T) {
	const pid = 77
	proc := newFakeProc(t, pid)
	path := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	l := newLedger()
	w := watch(t, l, &verdicts{})
	w.config.Proc = filepath.Dir(proc.dir)
	look := func() {
		t.Helper()
		if err := w.reconcile(); err != nil {
			t.Fatal(err)
		}
	}
	only := func(when string, want ...Process) {
		t.Helper()
		got := l.usersOf(path)
		if len(got) != len(want) || len(want) == 1 && !got[want[0]] {
			t.Errorf("%s: used by %v, want %v", when, got, want)
		}
	}
	proc.write(t, 100, path)
	look()
	only("at first", Process{pid, 100})
	proc.write(t, 200, path)
	look()
	only("with the id taken over", Process{pid, 200})
	proc.write(t, 200)
	look()
	only("unmapped")
	proc.write(t, 200, path)
	look()
	only("mapped again", Process{pid, 200})
	if err := os.RemoveAll(proc.dir); err != nil {
		t.Fatal(err)
	}
	look()
	only("gone")
	if len(w.processes) != 0 {
		t.Errorf("still remembered: %v", w.processes)
	}
}

func TestWatcherLeavesNothingOpen(t *testing.T) {
	proc := newFakeProc(t, 78)
	good := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	bad := copyFile(t, "/bin/true", filepath.Join(t.TempDir(), "libssl.so.4"))
	w := watch(t, newLedger(), &verdicts{})
	w.config.Proc = filepath.Dir(proc.dir)
	count := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	before := count()
	for range 50 {
		proc.write(t, 100, good, bad)
		if err := w.reconcile(); err != nil {
			t.Fatal(err)
		}
		proc.write(t, 100)
		if err := w.reconcile(); err != nil {
			t.Fatal(err)
		}
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if s := w.Stats(); s.Files != 100 || s.FilesFailed != 50 {
		t.Errorf("stats %+v", s)
	}
}
