package target

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/bpf"
)

// byEvents is a Watcher that hears of nothing but mappings.
func byEvents(t *testing.T, l *ledger, targets ...string) *Watcher {
	t.Helper()
	needRoot(t)
	w := watch(t, l, &verdicts{told: map[bpf.FileID]Verdict{}}, targets...)
	w.config.Reconcile = time.Hour
	for i := range w.config.Libraries {
		w.config.Libraries[i].WellKnown = nil
	}
	start(t, w)
	eventually(t, "the start", func() bool { return w.MappingRung() == MappedByPerf || w.MappingProblem() != "" })
	if w.MappingRung() != MappedByPerf {
		t.Skip(w.MappingProblem())
	}
	return w
}

func TestALibraryIsFoundAsItIsMapped(t *testing.T) {
	l := newLedger()
	w := byEvents(t, l, "netns=self")
	path := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	const children = 10
	var slowest time.Duration
	for i := range children {
		c := python(t, nil)
		began := time.Now()
		c.load(t, path)
		eventually(t, "the mapping", func() bool { return l.count(path) == i+1 })
		slowest = max(slowest, time.Since(began))
	}
	t.Logf("the slowest of %d was known after %v; %+v", children, slowest, w.Stats())
	if s := w.Stats(); s.Mappings < children || s.MappingsLost != 0 {
		t.Errorf("%+v", s)
	}
}

func TestMappingsOutsideTheSelectionAreLeftAlone(t *testing.T) {
	l := newLedger()
	w := byEvents(t, l, "netns=self")
	dir := t.TempDir()
	in, out := copyFile(t, systemLibrary(t), dir+"/in/libssl.so.3"), copyFile(t, systemLibrary(t), dir+"/out/libssl.so.3")
	outside := python(t, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET})
	inside := python(t, nil)
	before := w.Stats()
	outside.load(t, out)
	inside.load(t, in)
	eventually(t, "the one that is wanted", func() bool { return l.count(in) == 1 })
	if n := l.count(out); n != 0 {
		t.Errorf("%d users of a file outside", n)
	}
	if after := w.Stats(); after.Files != before.Files+1 {
		t.Errorf("%d files handed on, want one", after.Files-before.Files)
	}
}

func TestMappedInAMountNamespace(t *testing.T) {
	l := newLedger()
	byEvents(t, l, "netns=self")
	c := python(t, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS})
	dir := t.TempDir()
	if out, err := execIn(c.pid(), "mount -t tmpfs none "+dir+" && cp "+systemLibrary(t)+" "+dir+"/libssl.so.3"); err != nil {
		t.Skipf("mount in the child: %v: %s", err, out)
	}
	c.load(t, dir+"/libssl.so.3")
	eventually(t, "the mapping", func() bool { return l.count(dir+"/libssl.so.3") == 1 })
	if f, _ := l.at(dir + "/libssl.so.3"); f.Problem != nil || len(f.Sites) == 0 {
		t.Errorf("%+v", f)
	}
}

func TestLostMappingsAreLookedFor(t *testing.T) {
	l := newLedger()
	w := byEvents(t, l, "netns=self")
	path := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	w.mapped.follow.mu.Lock() // nobody reads: everything below is lost or late
	c := python(t, nil)
	c.load(t, path)
	time.Sleep(20 * time.Millisecond)
	for _, r := range w.mapped.follow.rings {
		r.read(func([]byte) {}) // lost
	}
	w.mapped.follow.mu.Unlock()
	w.missedMappings(3)
	eventually(t, "the look at everything", func() bool { return l.count(path) == 1 })
	if s := w.Stats(); s.MappingsLost != 3 {
		t.Errorf("%+v", s)
	}
	// More than a ring holds, while nobody reads: the kernel says how many it could not write.
	w.mapped.follow.mu.Lock()
	overflow(t)
	w.mapped.follow.mu.Unlock()
	overflow(t)
	eventually(t, "the kernel's word", func() bool { return w.Stats().MappingsLost > 3 })
}

// overflow makes more mappings than one ring has room for.
func overflow(t *testing.T) {
	t.Helper()
	f, err := os.Open("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 * ringBytes / 64 {
		m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
		if err != nil {
			t.Fatal(err)
		}
		unix.Munmap(m)
	}
}

func TestAStormOfMappingsCostsFewLooks(t *testing.T) {
	l := newLedger()
	w := byEvents(t, l, "netns=self")
	path := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	c := exec.Command("/usr/bin/python3", "-c", `
import mmap, sys, time
f = open(sys.argv[1], "rb")
for _ in range(20000):
    mmap.mmap(f.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
keep = mmap.mmap(f.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
print("done", flush=True)
time.sleep(60)
`, path)
	began := time.Now()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	if said, err := bufio.NewReader(out).ReadString('\n'); said != "done\n" {
		t.Fatalf("%q, %v", said, err)
	}
	eventually(t, "the last mapping", func() bool { return l.count(path) == 1 && len(w.mapped.events) == 0 })
	s, most := w.Stats(), uint64(time.Since(began)/again)+20
	if s.Mappings+s.MappingsLost < 1000 || s.Scans > most {
		t.Errorf("%+v: more than %d address spaces read", s, most)
	}
	t.Logf("20000 mappings in %v: %+v", time.Since(began), s)
}

func TestWithoutMapEventsItIsPolled(t *testing.T) {
	needRoot(t)
	path := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	l := newLedger()
	w := watch(t, l, &verdicts{told: map[bpf.FileID]Verdict{}}, "netns=self")
	w.mapped.open = func(func([]byte) bool, func(mapEvent), func(uint64)) (*mappings, error) {
		return nil, noMapEvents(unix.EACCES)
	}
	w.config.Reconcile = time.Hour
	start(t, w)
	c := python(t, nil)
	w.Exec(c.pid(), bpf.FileID{})
	c.load(t, path)
	eventually(t, "a planned look", func() bool { return l.count(path) == 1 })
	if w.MappingRung() != MappedByPoll || w.MappingProblem() == "" {
		t.Errorf("%s, %q", w.MappingRung(), w.MappingProblem())
	}
}

// TestTheKernelRefusesMapEvents asks on a thread that has given up every right.
func TestTheKernelRefusesMapEvents(t *testing.T) {
	needRoot(t)
	paranoid, err := os.ReadFile("/proc/sys/kernel/perf_event_paranoid")
	if level, bad := strconv.Atoi(strings.TrimSpace(string(paranoid))); err != nil || bad != nil || level < 1 {
		t.Skip("this kernel shows everybody what the processors do")
	}
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		head, none := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
		if err := unix.Capset(&head, &none[0]); err != nil {
			failed <- err
			return
		}
		m, err := followMappings(wantedNames(Libraries()), func(mapEvent) {}, func(uint64) {})
		if err == nil {
			m.Close()
		}
		failed <- err
	}()
	err = <-failed
	if !errors.Is(err, ErrNoMapEvents) || !strings.Contains(err.Error(), "; give it CAP_PERFMON") || strings.Contains(err.Error(), "denied") {
		t.Errorf("%v", err)
	}
}
