package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain runs the tests in a network namespace of their own: what they start is all that there is to see, and what
// they watch is only that. Without root the house rules still run, and each smoke test skips.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_SPILE_NETNS") != "" || os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	self := exec.Command("/proc/self/exe", os.Args[1:]...)
	self.Args[0] = os.Args[0]
	self.Env = append(os.Environ(), "TEST_SPILE_NETNS=1")
	self.Stdout, self.Stderr = os.Stdout, os.Stderr
	self.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := self.Run(); err != nil {
		if self.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "make a network namespace:", err)
		}
		os.Exit(1)
	}
}

// needsRoot skips a test that loads eBPF programs, and brings up the loopback of the test's namespace.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Getenv("TEST_SPILE_NETNS") == "" {
		t.Skip("needs root: it loads eBPF programs and makes network namespaces")
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("bring up lo: %v: %s", err, out)
	}
}

type programs struct{ spile, agent string }

var builtOnce = sync.OnceValues(func() (programs, error) {
	dir, err := filepath.Abs("../bin")
	if err != nil {
		return programs{}, err
	}
	if given := os.Getenv("TEST_SPILE_BIN"); given != "" { // programs built elsewhere, such as a release
		return programs{filepath.Join(given, "spile"), filepath.Join(given, "spile-agent")}, nil
	}
	p := programs{filepath.Join(dir, "spile"), filepath.Join(dir, "spile-agent")}
	out, err := exec.Command("make", "-C", "..", "--no-print-directory", "build").CombinedOutput()
	if err != nil {
		return p, fmt.Errorf("make build: %w: %s", err, out)
	}
	return p, nil
})

// binaries builds the two real programs once.
func binaries(t testing.TB) programs {
	t.Helper()
	p, err := builtOnce()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// output runs a program to its end and returns what it printed, failing the test when it fails.
func output(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(name), strings.Join(args, " "), err, &stdout, &stderr)
	}
	return stdout.Bytes()
}

// exitCode runs a program and returns its exit status and what it said on stderr.
func exitCode(t testing.TB, cmd *exec.Cmd) (int, string) {
	t.Helper()
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), said.String()
}

// process is a program that the test started and ends.
type process struct {
	*exec.Cmd
	log  *lockedBuffer
	done chan struct{}
}

// start runs a program until the test ends; it dies with the test process even when that is killed.
func start(t testing.TB, name string, args ...string) *process {
	t.Helper()
	return begin(t, exec.Command(name, args...))
}

func begin(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: cmd, log: &lockedBuffer{}, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = p.log
	}
	cmd.Stderr = p.log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	go func() { cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.kill()
		if log := p.log.String(); t.Failed() && log != "" {
			t.Logf("the end of what %s said:\n%s", filepath.Base(p.Path), log[max(0, len(log)-3000):])
		}
	})
	return p
}

// kill ends the process and what it started, and waits.
func (p *process) kill() {
	syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// stop asks the process to end and returns its exit status.
func (p *process) stop(t testing.TB, within time.Duration) int {
	t.Helper()
	p.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(within):
		t.Errorf("%s did not end within %s of SIGTERM\n%s", filepath.Base(p.Path), within, p.log)
		p.kill()
	}
	return p.ProcessState.ExitCode()
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// eventually polls until ok, and fails the test with what describe says when it never is.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// jsonLines decodes each line of out.
func jsonLines[T any](t testing.TB, out []byte) []T {
	t.Helper()
	var all []T
	for line := range bytes.Lines(out) {
		var v T
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatalf("not a JSON line: %v: %s", err, line)
		}
		all = append(all, v)
	}
	return all
}
