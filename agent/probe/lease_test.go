package probe

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
)

// The longest that a writer may be held up. Measured: 60 to 130 ms. The kernel takes the probes of perf events out one
// after another; measured: 1.4 s.
const (
	mostWait       = 300 * time.Millisecond
	mostWaitByPerf = 4 * time.Second
)

// rewrite opens a file for writing and, before the first byte is written, calls opened. It returns how long opening took.
func rewrite(t testing.TB, path string, text []byte, opened func()) time.Duration {
	t.Helper()
	began := time.Now()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	waited := time.Since(began)
	opened()
	if _, err := f.Write(text); err != nil {
		t.Fatal(err)
	}
	return waited
}

func contents(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// phase is that of the only file.
func phase(t testing.TB, r *Registry) Phase { return one(t, r).Phase }

func TestAWriterWaitsUntilTheProbesAreOut(t *testing.T) {
	for _, multi := range []bool{true, false} {
		programs := newCounting(t, multi)
		path := library(t, t.TempDir())
		text := contents(t, path)
		c := newCaller(t, path)
		r := registry(t, programs, DefaultTimes())
		if !r.Use(c.process(), described(t, path)) || one(t, r).Unleased != "" {
			t.Fatalf("multi=%v: %+v", multi, one(t, r))
		}
		c.call(t, 3)
		c.Process.Kill()
		c.Wait()
		waited := rewrite(t, path, text, func() {
			if n := linksOn(t, path); n != 0 {
				t.Errorf("multi=%v: the file is open for writing and has %d links", multi, n)
			}
			newCaller(t, path).call(t, 2)
			if n := programs.hits(t, freed); n != 3 {
				t.Errorf("multi=%v: %d hits of 3 calls before, and of calls while the file is open for writing", multi, n)
			}
			if s := one(t, r); s.Phase != Failed || !strings.Contains(s.Reason, "it is being written; it is tried again") || s.Processes != 1 {
				t.Errorf("multi=%v: %+v", multi, s)
			}
		})
		t.Logf("multi=%v: the writer waited %v", multi, waited)
		if waited > mostWaitByPerf || multi && waited > mostWait {
			t.Errorf("multi=%v: the writer waited %v", multi, waited)
		}
		// He left what was there: nobody has to hand it on again.
		eventually(t, "it to be attached again", func() bool { return phase(t, r) == Attached })
		newCaller(t, path).call(t, 5)
		if n := programs.hits(t, freed); n != 8 {
			t.Errorf("multi=%v: %d hits of 8 calls", multi, n)
		}
	}
}

func TestCopiedOverByAnotherProgram(t *testing.T) {
	programs := newCounting(t, true)
	dir := t.TempDir()
	path, same := library(t, dir), library(t, filepath.Join(dir, "same"))
	r := registry(t, programs, DefaultTimes())
	r.Use(target.Process{PID: 1, Start: 1}, described(t, path))
	for range 5 {
		began := time.Now()
		if out, err := exec.Command("cp", same, path).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		took := time.Since(began)
		eventually(t, "it to be attached again", func() bool { return phase(t, r) == Attached })
		t.Logf("cp took %v, attached again after %v", took, time.Since(began)-took)
		if took > 2*mostWait {
			t.Errorf("cp took %v", took)
		}
	}
}

func TestWhatIsBeingWrittenIsNotAttached(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c := newCaller(t, path)
	writer, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := described(t, path)
	r := registry(t, programs, DefaultTimes())
	if r.Use(c.process(), f) || linksOn(t, path) != 0 {
		t.Fatalf("attached: %+v", one(t, r))
	}
	if s := one(t, r); s.Phase != Failed || s.Reason != "attach to "+path+": it is being written; it is tried again when it is not" {
		t.Errorf("%+v", s)
	}
	if attached, again := r.Stands(f.ID, 0); attached || again {
		t.Errorf("to be handed on again at once: %v, %v", attached, again)
	}
	start := time.Now()
	at(r, start.Add(2*time.Second))
	if attached, again := r.Stands(f.ID, 0); attached || !again {
		t.Errorf("after a while: attached %v, hand on again %v", attached, again)
	}
	if r.Use(c.process(), f) {
		t.Error("attached while he still has it open")
	}
	writer.Close()
	if attached, again := r.Stands(f.ID, 0); attached || again {
		t.Errorf("at the second failure it is to be handed on at once: %v, %v", attached, again)
	}
	at(r, start.Add(5*time.Second))
	if !r.Use(c.process(), described(t, path)) {
		t.Fatalf("%+v", one(t, r))
	}
	c.call(t, 4)
	if n := programs.hits(t, freed); n != 4 {
		t.Errorf("%d hits of 4 calls", n)
	}
}

func TestWrittenBetweenDescriptionAndAttaching(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	text := contents(t, path)
	f := described(t, path)
	// The functions move by a page: the same size, and the time set back.
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(make([]byte, 4096), text[:len(text)-4096]...), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	r := registry(t, programs, DefaultTimes())
	if r.Use(target.Process{PID: 1}, f) || linksOn(t, path) != 0 || !strings.Contains(one(t, r).Reason, "being written") {
		t.Errorf("attached to what was never described: %+v", one(t, r))
	}
}

// TestManyFilesYieldAtOnce overwrites many files together. All are out before a byte is written.
func TestManyFilesYieldAtOnce(t *testing.T) {
	const files = 40
	programs := newCounting(t, true)
	dir := t.TempDir()
	r := registry(t, programs, DefaultTimes())
	var paths []string
	for i := range files {
		path := library(t, filepath.Join(dir, string(rune('a'+i/26))+string(rune('a'+i%26))))
		paths = append(paths, path)
		if !r.Use(target.Process{PID: uint32(i + 1)}, described(t, path)) {
			t.Fatalf("%+v", r.List())
		}
	}
	text := contents(t, paths[0])
	waits := make(chan time.Duration, files)
	for _, path := range paths {
		go func() {
			waits <- rewrite(t, path, text, func() {})
		}()
	}
	var longest time.Duration
	for range files {
		longest = max(longest, <-waits)
	}
	t.Logf("%d writers at once waited at most %v", files, longest)
	if longest > 5*time.Second {
		t.Errorf("a writer waited %v", longest)
	}
	eventually(t, "all to be attached again", func() bool { return attached(r) == files })
}

// TestLeaseWithoutCapabilities is what deploy/agent.yaml gives: files of the own user can be leased, others cannot.
func TestLeaseWithoutCapabilities(t *testing.T) {
	newCounting(t, true) // skips where there is no root
	dir := t.TempDir()
	own, foreign := library(t, filepath.Join(dir, "own")), library(t, filepath.Join(dir, "foreign"))
	if err := os.Chown(foreign, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	why := make(chan [2]string, 1)
	files := [2]target.File{described(t, own), described(t, foreign)}
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		var got [2]string
		if err := unix.Capset(&head, &none[0]); err != nil {
			got = [2]string{err.Error(), err.Error()}
		} else {
			for i, f := range files {
				g, err := newGuard(f)
				if err != nil {
					got[i] = err.Error()
					continue
				}
				got[i] = g.unleased
				g.release()
			}
		}
		why <- got
	}()
	if got := <-why; got[0] != "" || !strings.Contains(got[1], "CAP_LEASE") {
		t.Errorf("without capabilities: own %q, another's %q", got[0], got[1])
	}
}

// TestLayerWrittenUnderAnOverlay writes where the lease does not reach: into the layer's file, beside the overlay.
func TestLayerWrittenUnderAnOverlay(t *testing.T) {
	programs := newCounting(t, true)
	base := t.TempDir()
	if err := unix.Mount("none", base, "tmpfs", 0, ""); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { unix.Unmount(base, unix.MNT_DETACH) })
	real := library(t, filepath.Join(base, "image"))
	root := filepath.Join(base, "root")
	for _, dir := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("overlay", root, "overlay", 0, "lowerdir="+base+"/image,upperdir="+base+"/upper,workdir="+base+"/work"); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	path := filepath.Join(root, "libssl.so.3")
	r := registry(t, programs, DefaultTimes())
	if !r.Use(target.Process{PID: 1}, described(t, path)) {
		t.Fatalf("%+v", r.List())
	}
	text := contents(t, real)
	began := time.Now()
	if waited := rewrite(t, real, text, func() {}); waited > 50*time.Millisecond {
		t.Logf("a writer of the layer waited %v", waited)
	}
	eventually(t, "the change to be seen", func() bool { return phase(t, r) == Failed })
	took := time.Since(began)
	t.Logf("seen after %v", took)
	if took > 2*DefaultTimes().Sweep {
		t.Errorf("seen after %v", took)
	}
	// Through the overlay the lease does reach.
	time.Sleep(DefaultTimes().Written)
	eventually(t, "it to be attached again", func() bool {
		return phase(t, r) == Attached || r.Use(target.Process{PID: 1}, described(t, path))
	})
	rewrite(t, path, text, func() {
		if s := one(t, r); s.Phase != Failed {
			t.Errorf("written in the container while %+v", s)
		}
	})
}

func TestWithoutALeaseTheStampTells(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	text := contents(t, path)
	r := registry(t, programs, DefaultTimes())
	f := described(t, path)
	r.Use(target.Process{PID: 1}, f)
	g := r.files[key{f.ID, 0}].at.guard
	g.admit()
	r.mu.Lock()
	g.unleased = "for the test"
	r.mu.Unlock()
	// A new link and other rights change nothing of the content.
	if err := os.Link(path, path+".link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * DefaultTimes().Sweep)
	if phase(t, r) != Attached {
		t.Fatalf("%+v", one(t, r))
	}
	// Other code at the same size, with the time set back.
	var before syscall.Stat_t
	if err := syscall.Stat(path, &before); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, len(text)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{unix.Timespec(before.Atim), unix.Timespec(before.Mtim)}, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change to be seen", func() bool { return phase(t, r) == Failed })
	eventually(t, "the probes to be out", func() bool { return linksOn(t, path) == 0 })
}

// TestWriterWhileTheAgentIsKilled opens a file for writing at the moment when the kernel takes the agent apart.
func TestWriterWhileTheAgentIsKilled(t *testing.T) {
	newCounting(t, true) // skips where there is no root
	path := library(t, t.TempDir())
	agent := exec.Command("/proc/self/exe", "-test.run=^TestHolder$", "-test.v")
	agent.Env = append(os.Environ(), holdEnv+"="+path)
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Process.Kill(); agent.Wait() })
	for lines := bufio.NewScanner(out); lines.Scan() && !strings.Contains(lines.Text(), "attached"); {
	}
	links := linksOn(t, path)
	if links == 0 {
		t.Fatal("the agent did not attach")
	}
	agent.Process.Kill()
	waited := rewrite(t, path, contents(t, path), func() {
		if n := linksOn(t, path); n != 0 {
			t.Errorf("the file is open for writing and has %d links", n)
		}
	})
	t.Logf("%d links; the writer waited %v", links, waited)
}
