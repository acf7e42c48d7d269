package deploy

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// crasher is a program with a libssl of its own, which dies in the ways of testdata/crash.
type crasher struct {
	t    *testing.T
	dir  string
	name string
}

// buildCrasher compiles one. Each has its own build id, since that is what is denied.
func buildCrasher(t *testing.T, name string) crasher {
	t.Helper()
	c := crasher{t, t.TempDir(), name}
	id := fmt.Sprintf("-Wl,--build-id=0x%x%08x", name, time.Now().Unix())
	output(t, "cc", "-O1", "-fPIC", "-shared", "-o", c.library(), "testdata/crash/libssl.c", "-Wl,-soname,libssl.so.3", id)
	output(t, "cc", "-O1", "-o", filepath.Join(c.dir, name), "testdata/crash/main.c", "-L"+c.dir, "-l:libssl.so.3", "-Wl,-rpath,$ORIGIN")
	return c
}

func (c crasher) library() string { return filepath.Join(c.dir, "libssl.so.3") }

// probes are the rows of its library in the agent's account.
func (c crasher) probes(p *product) []probeLine { return p.probes(c.library()) }

// run lets it make calls until it was probed for a while, or so many, and returns what it said and how it ended.
func (c crasher) run(how string, calls int) (said string, died syscall.Signal) {
	c.t.Helper()
	out, err := exec.Command(filepath.Join(c.dir, c.name), how, fmt.Sprint(calls)).Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	if exit != nil {
		status := exit.Sys().(syscall.WaitStatus)
		if !status.Signaled() {
			c.t.Fatalf("%s %s: %v: %s", c.name, how, err, exit.Stderr)
		}
		died = status.Signal()
	}
	return strings.TrimSpace(string(out)), died
}

// whileProbed runs it for at most ten seconds, which must be enough for probes to come.
func (c crasher) whileProbed(how string) (died syscall.Signal) {
	c.t.Helper()
	said, died := c.run(how, 5000)
	if said != "probed" && how != "check" {
		c.t.Fatalf("%s %s: nobody probed it (%q, %v)", c.name, how, said, died)
	}
	return died
}

// denied lists the denied builds as the agent keeps them.
func (p *product) denied() string {
	p.t.Helper()
	kept, err := os.ReadFile(filepath.Join(p.data, "agent", "denied.json"))
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
	return string(kept)
}

// settles waits until the agent has told of so many of a kind.
func (p *product) settles(name string, want uint64) {
	p.t.Helper()
	eventually(p.t, 3*healthEvery, fmt.Sprintf("%d %s", want, name), func() bool { return p.count("guard", name) == want })
}

// TestSafetyCrashOfAProbe: a program that dies of a breakpoint of ours, which it took along when it moved its code, is let
// alone within two seconds, for good, until a person allows it again.
func TestSafetyCrashOfAProbe(t *testing.T) {
	needsRoot(t)
	c := buildCrasher(t, "mover")
	if said, died := c.run("copies", 10); died != 0 || said != "not probed" {
		t.Fatalf("without an agent it says %q and dies of %v", said, died)
	}
	p := up(t)
	if died := c.whileProbed("copies"); died != syscall.SIGTRAP {
		t.Fatalf("it died of %v, want SIGTRAP", died)
	}
	p.isDenied(c)
	if said, died := c.run("copies", 500); died != 0 || said != "not probed" {
		t.Fatalf("denied, it says %q and dies of %v", said, died)
	}
	p.settles("crashes_blamed", 1)
	eventually(t, 3*healthEvery, "its state is told", func() bool {
		rows := c.probes(p)
		return len(rows) > 0 && rows[0].State == "denied" && strings.Contains(rows[0].Reason, "SIGTRAP") && strings.Contains(rows[0].Reason, "spile-agent allow")
	})
	if status := p.status(); !strings.Contains(status, "SIGTRAP at a breakpoint") {
		t.Errorf("spile status says nothing of it:\n%s", status)
	}
	if log := p.log.String(); !strings.Contains(log, "crashed because it was probed") {
		t.Errorf("the log says nothing of it:\n%s", log)
	}

	// A restart does not forget, and a person can allow it again.
	p.stop(t, 10*time.Second)
	again := upIn(t, p.data)
	eventually(t, 3*healthEvery, "it is named, though nobody runs it", func() bool {
		status := again.status()
		return len(c.probes(again)) == 0 && strings.Contains(status, c.library()) && strings.Contains(status, "SIGTRAP at a breakpoint") && strings.Contains(status, "1 denied")
	})
	if said, _ := c.run("clean", 500); said != "not probed" {
		t.Errorf("after a restart it is %q", said)
	}
	out := string(output(t, p.bin.agent, "allow", "all", "--data", filepath.Join(again.data, "agent")))
	if !strings.Contains(out, c.library()) {
		t.Errorf("allow says %q", out)
	}
	if died := c.whileProbed("clean"); died != 0 {
		t.Errorf("allowed again, it died of %v", died)
	}
}

// isDenied waits two seconds at most.
func (p *product) isDenied(c crasher) {
	p.t.Helper()
	crashed := time.Now()
	eventually(p.t, 2*time.Second, "the build is denied", func() bool { return strings.Contains(p.denied(), c.library()) })
	p.t.Logf("denied %v after the crash", time.Since(crashed))
}

// TestSafetyCrashOfAProgramLeftOut: a probe lies in a library for all who map it, so that it may harm a program that nobody
// watches. That ends as soon.
func TestSafetyCrashOfAProgramLeftOut(t *testing.T) {
	needsRoot(t)
	c := buildCrasher(t, "seen")
	left := crasher{t, c.dir, "unseen"}
	copied(t, filepath.Join(c.dir, c.name), filepath.Join(left.dir, left.name))
	p := up(t, "--target", "netns=self", "--target", "exe="+filepath.Join(c.dir, c.name))
	if said, _ := left.run("clean", 300); said != "not probed" {
		t.Fatalf("nobody who is watched maps the library, and it is %q", said)
	}
	watched := begin(t, exec.Command(filepath.Join(c.dir, c.name), "on", "100000"))
	if died := left.whileProbed("copies"); died != syscall.SIGTRAP {
		t.Fatalf("it died of %v, want SIGTRAP", died)
	}
	p.isDenied(c)
	if said, died := left.run("copies", 500); died != 0 || said != "not probed" {
		t.Errorf("denied, it says %q and dies of %v", said, died)
	}
	select {
	case <-watched.done:
		t.Errorf("the program that is watched ended: %v", watched.ProcessState)
	default:
	}
}

// TestSafetyTrapOfItsOwn: a program that hits a breakpoint of its own inside a call, or sends itself SIGTRAP there, is not
// blamed. The latter may have found a probe in its code, so that it is tried without.
func TestSafetyTrapOfItsOwn(t *testing.T) {
	needsRoot(t)
	p := up(t)
	c := buildCrasher(t, "asserts")
	for range 2 {
		if died := c.whileProbed("traps"); died != syscall.SIGTRAP {
			t.Fatalf("it died of %v", died)
		}
	}
	p.settles("crashes_suspected", 2)
	if rows := c.probes(p); len(rows) == 0 || rows[0].State != "attached" && rows[0].State != "draining" {
		t.Errorf("a breakpoint of its own ends the probes: %+v", rows)
	}
	checks := buildCrasher(t, "selfcheck")
	if died := checks.whileProbed("check"); died != syscall.SIGTRAP {
		t.Fatalf("it died of %v", died)
	}
	eventually(t, 2*time.Second, "the probes are out", func() bool { said, died := checks.run("check", 10); return died == 0 && said == "not probed" })
	p.settles("trials", 1)
	if n := p.count("guard", "crashes_blamed"); n != 0 {
		t.Errorf("%d blamed", n)
	}
	if denied := p.denied(); strings.Contains(denied, "build_id") {
		t.Errorf("denied: %s", denied)
	}
}

// TestSafetyCrashesOfItsOwn: programs that die of other things are probed on, and nobody is blamed.
func TestSafetyCrashesOfItsOwn(t *testing.T) {
	needsRoot(t)
	p := up(t)
	c := buildCrasher(t, "buggy")
	own := uint64(0)
	for how, want := range map[string]syscall.Signal{"own": syscall.SIGSEGV, "abort": syscall.SIGABRT} {
		for range 4 {
			if died := c.whileProbed(how); died != want {
				t.Fatalf("%s: it died of %v, want %v", how, died, want)
			}
			own++
		}
	}
	// Another process kills it while it is in a call.
	for range 4 {
		cmd := exec.Command(filepath.Join(c.dir, c.name), "wait", "5000")
		in, err := cmd.StdinPipe()
		must(t, err)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		var said string
		if _, err := fmt.Fscan(out, &said); err != nil || said != "probed" {
			t.Fatalf("it says %q: %v", said, err)
		}
		time.Sleep(50 * time.Millisecond) // from that line into the call
		must(t, cmd.Process.Signal(syscall.SIGSEGV))
		_ = cmd.Wait() // its end is the point
		in.Close()
		own++
	}
	// A Go program reads from a nil pointer: the runtime takes the signal and exits with status 2.
	program := filepath.Join(t.TempDir(), "panics")
	build := exec.Command("go", "build", "-o", program, "testdata/crash/panics.go")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	for range 2 {
		if code, said := exitCode(t, exec.Command(program)); code != 2 || !strings.Contains(said, "nil pointer") {
			t.Fatalf("status %d: %s", code, said)
		}
		own++
	}
	p.settles("crashes_own", own)
	for _, name := range []string{"crashes_blamed", "crashes_suspected", "trials"} {
		if n := p.count("guard", name); n != 0 {
			t.Errorf("%d %s", n, name)
		}
	}
	if denied := p.denied(); strings.Contains(denied, "build_id") {
		t.Errorf("denied: %s", denied)
	}
	for _, row := range append(c.probes(p), p.probes(program)...) {
		if row.State == "denied" || row.State == "suspended" || row.State == "failed" {
			t.Errorf("%+v", row)
		}
	}
	if died := c.whileProbed("clean"); died != 0 {
		t.Errorf("it died of %v", died)
	}
}

// TestSafetyTrial: three crashes inside calls take the probes away, and crashes that go on without them bring them back.
func TestSafetyTrial(t *testing.T) {
	needsRoot(t)
	p := up(t)
	c := buildCrasher(t, "suspect")
	for range 3 {
		if died := c.whileProbed("inside"); died != syscall.SIGSEGV {
			t.Fatalf("it died of %v", died)
		}
	}
	eventually(t, 2*time.Second, "the probes are out", func() bool { said, _ := c.run("clean", 10); return said == "not probed" })
	eventually(t, 3*healthEvery, "it is told to be on trial", func() bool {
		rows := c.probes(p)
		return len(rows) > 0 && rows[0].State == "suspended" && strings.Contains(rows[0].Reason, "on trial")
	})
	time.Sleep(3 * time.Second) // until then crashes may be of probes that were just there
	for range 2 {
		if said, died := c.run("inside", 100); said != "not probed" || died != syscall.SIGSEGV {
			t.Fatalf("on trial it says %q and dies of %v", said, died)
		}
	}
	p.settles("acquitted", 1)
	if died := c.whileProbed("inside"); died != syscall.SIGSEGV {
		t.Errorf("acquitted, it died of %v", died)
	}
	p.settles("crashes_suspected", 4)
	if n := p.count("guard", "crashes_blamed"); n != 0 {
		t.Errorf("%d blamed", n)
	}
}
