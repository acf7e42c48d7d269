package target

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spile/spile/bpf"
)

// carrier builds a program that carries functions by the names of OpenSSL's, waits, and becomes sleep when it is told.
func carrier(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	code := `#include <signal.h>
#include <unistd.h>
int SSL_read(void *s, void *b, int n) { return n; }
int SSL_write(void *s, const void *b, int n) { return n; }
static void become(int n) { execl("/bin/sleep", "sleep", "60", (char *)0); }
int main(void) { signal(SIGUSR1, become); for (;;) pause(); }
`
	source, path := filepath.Join(dir, "carrier.c"), filepath.Join(dir, "carrier")
	if err := os.WriteFile(source, []byte(code), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cc", "-O1", "-rdynamic", "-o", path, source).CombinedOutput(); err != nil {
		t.Skipf("cc: %v: %s", err, out)
	}
	return path
}

func TestAProgramThatCarriesALibrary(t *testing.T) {
	needRoot(t)
	path := carrier(t)
	one, two := run(t, path), run(t, path)
	l := newLedger()
	w := watch(t, l, &verdicts{told: map[bpf.FileID]Verdict{}}, "netns=self")
	w.config.Reconcile = time.Hour
	outside := exec.Command(path)
	outside.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET}
	if err := outside.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outside.Process.Kill(); outside.Wait() })
	start(t, w)
	f, n := l.at(path)
	if n != 2 || f.Problem != nil || len(f.Sites) != 2 || f.Only != 0 || !strings.Contains(f.Library, "in the executable") {
		t.Fatalf("%d users of %+v", n, f)
	}
	three := run(t, path)
	w.Exec(uint32(three.Process.Pid), bpf.FileID{})
	eventually(t, "a third user", func() bool { return l.count(path) == 3 })
	w.Exec(uint32(three.Process.Pid), bpf.FileID{}) // the same image again
	// Another image in the same process: it carries nothing.
	one.Process.Signal(syscall.SIGUSR1)
	eventually(t, "exec", func() bool {
		_, _, exe, err := exeOf("/proc", uint32(one.Process.Pid))
		return err == nil && filepath.Base(exe) != "carrier"
	})
	w.Exec(uint32(one.Process.Pid), bpf.FileID{})
	eventually(t, "the old image to be let go", func() bool { return l.count(path) == 2 })
	key, _, err := readProcess("/proc", uint32(two.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	two.Process.Kill()
	two.Wait()
	w.Exit(key.PID, time.Duration(key.Start)*tick)
	eventually(t, "the end of a user", func() bool { return l.count(path) == 1 })
}

func TestLibrariesOnDemand(t *testing.T) {
	needRoot(t)
	crypto := filepath.Join(filepath.Dir(systemLibrary(t)), "libcrypto.so.3")
	if _, err := os.Stat(crypto); err != nil {
		t.Skip(err)
	}
	path := copyFile(t, crypto, filepath.Join(t.TempDir(), "libcrypto.so.3"))
	asked, other := python(t, nil), python(t, nil)
	asked.load(t, path)
	other.load(t, path)
	l := newLedger()
	w := watch(t, l, &verdicts{told: map[bpf.FileID]Verdict{}}, "netns=self")
	w.config.Reconcile = time.Hour
	start(t, w)
	if n := l.count(path); n != 0 {
		t.Fatalf("%d users before anybody asked", n)
	}
	for range 100 {
		w.Unbound(asked.pid())
	}
	eventually(t, "what was asked for", func() bool { return l.count(path) == 1 })
	f, _ := l.at(path)
	if f.Only != asked.pid() || f.Problem != nil || len(f.Sites) != 1 || f.Sites[0].Symbol != "BIO_write" || f.Sites[0].Enter != "bio_write_enter" {
		t.Errorf("%+v", f)
	}
	w.Unbound(1 << 30) // nobody
	key, _, err := readProcess("/proc", asked.pid())
	if err != nil {
		t.Fatal(err)
	}
	asked.Process.Kill()
	asked.Wait()
	w.Exit(key.PID, time.Duration(key.Start)*tick)
	eventually(t, "the end of it", func() bool { return l.count(path) == 0 })
	if s := w.Stats(); s.Unbound != 1 {
		t.Errorf("%+v: asked for more than once", s)
	}
}

func TestUnboundOutsideTheSelection(t *testing.T) {
	needRoot(t)
	crypto := filepath.Join(filepath.Dir(systemLibrary(t)), "libcrypto.so.3")
	path := filepath.Join(t.TempDir(), "libcrypto.so.3")
	if _, err := os.Stat(crypto); err != nil {
		t.Skip(err)
	}
	copyFile(t, crypto, path)
	outside := python(t, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET})
	outside.load(t, path)
	l := newLedger()
	w := watch(t, l, &verdicts{told: map[bpf.FileID]Verdict{}}, "netns=self")
	start(t, w)
	w.Unbound(outside.pid())
	eventually(t, "it to be taken", func() bool { return w.Stats().Unbound == 1 })
	time.Sleep(50 * time.Millisecond)
	if n := l.count(path); n != 0 {
		t.Errorf("%d users outside the selection", n)
	}
}

// grudging is a Sink that probes nothing the first time.
type grudging struct {
	*ledger
	used map[Identity]int
}

func (g *grudging) Use(p Process, f File) bool {
	g.ledger.Use(p, f)
	g.used[f.ID]++
	return g.used[f.ID] > 1
}

func (g *grudging) Stands(id Identity, _ uint32) (probed, again bool) { return g.used[id] > 1, false }

func TestWhatIsNotProbedIsHandedOnAgain(t *testing.T) {
	proc := newFakeProc(t, 79)
	path := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	g := &grudging{newLedger(), map[Identity]int{}}
	w := watch(t, g.ledger, &verdicts{})
	w.config.Sink, w.config.Proc = g, filepath.Dir(proc.dir)
	look := func(n int, told time.Duration) {
		t.Helper()
		for as, h := range w.processes[79].files {
			h.told = time.Now().Add(-told)
			w.processes[79].files[as] = h
		}
		proc.write(t, 100, path)
		w.processes[79].space = nil
		w.look(79, false, bpf.FileID{})
		if f, _ := g.at(path); g.used[f.ID] != n {
			t.Errorf("handed on %d times, want %d", g.used[f.ID], n)
		}
	}
	proc.write(t, 100, path)
	w.look(79, false, bpf.FileID{})
	look(1, 0) // not at once
	look(2, retell)
	look(2, 2*retell) // it is probed now
	if f, users := g.at(path); users != 1 || w.uses[f.ID] != 1 {
		t.Errorf("%d users, counted %d", users, w.uses[f.ID])
	}
	proc.write(t, 100)
	w.processes[79].space = nil
	w.look(79, false, bpf.FileID{})
	if len(w.uses) != 0 {
		t.Errorf("still counted: %v", w.uses)
	}
}

func TestAnUpgradeReplacesWhatIsWellKnown(t *testing.T) {
	dir := t.TempDir()
	path := copyFile(t, systemLibrary(t), filepath.Join(dir, "libssl.so.3"))
	l := newLedger()
	w := watch(t, l, &verdicts{})
	w.config.Libraries = []Library{{Name: "OpenSSL", Files: []string{"libssl.so*"}, WellKnown: []string{dir + "/libssl.so.*"}, Functions: openSSL()}}
	w.findWellKnown()
	old, n := l.at(path)
	if n != 1 {
		t.Fatalf("%d users of %+v", n, old)
	}
	w.findWellKnown()
	copyFile(t, systemLibrary(t), path+".dpkg-new")
	if err := os.Rename(path+".dpkg-new", path); err != nil {
		t.Fatal(err)
	}
	w.findWellKnown()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.users) != 2 || len(l.users[old.ID]) != 0 || len(w.uses) != 1 || len(w.wellKnown) != 1 {
		t.Errorf("%s", fmt.Sprint(l.users, w.uses))
	}
}

func TestAnExecThatNobodyToldOf(t *testing.T) {
	needRoot(t)
	path := carrier(t)
	c := run(t, path)
	l := newLedger()
	w := watch(t, l, &verdicts{told: map[bpf.FileID]Verdict{}}, "netns=self")
	start(t, w)
	eventually(t, "the program", func() bool { return l.count(path) == 1 })
	c.Process.Signal(syscall.SIGUSR1)
	eventually(t, "the old image to be let go", func() bool { return l.count(path) == 0 })
}
