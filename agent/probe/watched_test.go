package probe

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
)

// mappedLibraries is the part of the table that a test of the machine's programs may use: the machine's own libraries are
// not ours to probe, and neither is the test itself, a Go program that its children are for a moment.
func mappedLibraries() []target.Library {
	libraries := slices.DeleteFunc(target.Libraries(), func(l target.Library) bool { return l.Where != target.SharedObject })
	for i := range libraries {
		libraries[i].WellKnown, libraries[i].Beside = nil, nil
	}
	return libraries
}

// watched lets a Watcher find what the programs of this test map, and returns when it does.
func watched(t *testing.T, r *Registry, reconcile time.Duration) *target.Watcher {
	t.Helper()
	spec, err := target.ParseSpec([]string{"netns=self"})
	if err != nil {
		t.Fatal(err)
	}
	selection, err := spec.Open("/proc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { selection.Close() })
	w := target.NewWatcher(target.Config{
		Proc: "/proc", Selection: selection, Sink: r, Cache: target.NewCache(target.DefaultBudget()), Libraries: mappedLibraries(),
		Reconcile: reconcile,
	})
	if err := w.Scan(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the start", func() bool { return w.MappingRung() == target.MappedByPerf || w.MappingProblem() != "" })
	return w
}

// client builds a program that maps a library and calls SSL_free once; with "stay" it calls it again at each line that
// it reads, and with "linger" it waits a little before it ends.
func client(t *testing.T) string {
	t.Helper()
	code := `#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int n, char **arg) {
	char line[16];
	void *lib = dlopen(arg[1], RTLD_NOW);
	if (!lib)
		return puts(dlerror()), 1;
	void (*call)(void *) = (void (*)(void *))dlsym(lib, "SSL_free");
	if (n > 2 && !strcmp(arg[2], "stay")) {
		for (puts("ready"), fflush(stdout); fgets(line, sizeof(line), stdin); puts("done"), fflush(stdout))
			call(0);
		return 0;
	}
	call(0);
	if (n > 2)
		usleep(50000);
	return 0;
}
`
	dir := t.TempDir()
	source, path := filepath.Join(dir, "client.c"), filepath.Join(dir, "client")
	if err := os.WriteFile(source, []byte(code), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cc", "-O1", "-o", path, source, "-ldl").CombinedOutput(); err != nil {
		t.Skipf("cc: %v: %s", err, out)
	}
	return path
}

// resident is a client that stays.
type resident struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func stay(t *testing.T, c *exec.Cmd) *resident {
	t.Helper()
	c.Stderr = os.Stderr
	in, err1 := c.StdinPipe()
	out, err2 := c.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	r := &resident{c, in, bufio.NewReader(out)}
	r.expect(t, "ready\n")
	return r
}

func (r *resident) expect(t *testing.T, want string) {
	t.Helper()
	if got, err := r.out.ReadString('\n'); got != want {
		t.Fatalf("the client said %q (%v), want %q", got, err, want)
	}
}

func (r *resident) call(t *testing.T) {
	t.Helper()
	fmt.Fprintln(r.in)
	r.expect(t, "done\n")
}

func attached(r *Registry) int {
	n := 0
	for _, s := range r.List() {
		if s.Phase == Attached || s.Phase == Draining {
			n++
		}
	}
	return n
}

func TestShortProcessesOfAKnownLibrary(t *testing.T) {
	programs := newCounting(t, true)
	path, program := library(t, t.TempDir()), client(t)
	r := registry(t, programs, DefaultTimes())
	stay(t, exec.Command(program, path, "stay"))
	watched(t, r, time.Hour)
	eventually(t, "the library", func() bool { return attached(r) == 1 })
	const processes = 50
	for range processes {
		if out, err := exec.Command(program, path).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if n := programs.hits(t, freed); n != processes {
		t.Errorf("%d hits of %d processes that call once", n, processes)
	}
}

// TestShortProcessesOnly has no process that lives long: one of the first is caught while it runs, and from then on
// every one is seen from its first call, for as long as they come.
func TestShortProcessesOnly(t *testing.T) {
	programs := newCounting(t, true)
	path, program := library(t, t.TempDir()), client(t)
	r := registry(t, programs, DefaultTimes())
	if w := watched(t, r, time.Hour); w.MappingRung() != target.MappedByPerf {
		t.Skip(w.MappingProblem())
	}
	once := func(args ...string) {
		if out, err := exec.Command(program, append([]string{path}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	first := 0
	for attached(r) == 0 {
		if first++; first > 100 {
			t.Fatal("100 processes of 50 ms came and went")
		}
		once("linger")
	}
	before := programs.hits(t, freed)
	for range 50 {
		once()
	}
	if n := programs.hits(t, freed) - before; n != 50 {
		t.Errorf("%d hits of 50 processes that call once", n)
	}
	t.Logf("attached after %d processes", first)
}

// TestFiftyContainersOfOneImage gives each process a mount namespace and an overlay of its own over one image.
func TestFiftyContainersOfOneImage(t *testing.T) {
	const containers = 50
	programs := newCounting(t, true)
	base, program := t.TempDir(), client(t)
	if err := unix.Mount("none", base, "tmpfs", 0, ""); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { unix.Unmount(base, unix.MNT_DETACH) })
	library(t, filepath.Join(base, "image/lib"))
	r := registry(t, programs, DefaultTimes())
	watched(t, r, 200*time.Millisecond)
	devices := map[uint64]bool{}
	var inside []*resident
	for i := range containers {
		dir := filepath.Join(base, fmt.Sprint(i))
		for _, sub := range []string{"upper", "work", "root"} {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		root := filepath.Join(dir, "root")
		script := fmt.Sprintf("mount -t overlay overlay -o lowerdir=%s/image,upperdir=%s/upper,workdir=%s/work %s && exec %s %s/lib/libssl.so.3 stay",
			base, dir, dir, root, program, root)
		c := exec.Command("sh", "-c", script)
		c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		inside = append(inside, stay(t, c))
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d/root%s/lib/libssl.so.3", c.Process.Pid, root), &st); err != nil {
			t.Fatal(err)
		}
		devices[st.Dev] = true
	}
	if len(devices) != containers {
		t.Fatalf("%d devices: the containers do not differ, and the test has lost its point", len(devices))
	}
	eventually(t, "every container", func() bool { l := r.List(); return len(l) > 0 && l[0].Processes == containers })
	if s := one(t, r); s.Phase != Attached {
		t.Fatalf("%+v", s)
	}
	var all sync.WaitGroup
	for _, c := range inside {
		all.Go(func() { c.call(t) })
	}
	all.Wait()
	if n := programs.hits(t, freed); n != containers {
		t.Errorf("%d hits of %d calls, one in each container", n, containers)
	}
	// The containers go, and with them the users, at once where exits are told.
	for _, c := range inside {
		c.Process.Kill()
		c.Wait()
	}
	eventually(t, "the users to go", func() bool { s := one(t, r); return s.Processes == 0 && s.Phase == Draining })
}
