package target

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestMain runs everything in a network and mount namespace of its own: tests mount, and start programs that speak TLS.
func TestMain(m *testing.M) {
	const inside = "SPILE_TEST_NAMESPACE"
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), inside+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := c.Run(); err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// systemLibrary is the machine's own libssl, to be copied.
func systemLibrary(t testing.TB) string {
	t.Helper()
	for _, lib := range Libraries() {
		for _, pattern := range lib.WellKnown {
			if found, _ := filepath.Glob(pattern); len(found) > 0 {
				return found[0]
			}
		}
	}
	t.Skip("no libssl is installed")
	return ""
}

func copyFile(t testing.TB, from, to string) string {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

// child is a Python program that loads libraries when it is told to.
type child struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func python(t testing.TB, attr *syscall.SysProcAttr) *child {
	t.Helper()
	const program = `
import ctypes, sys
print("ready", flush=True)
for line in sys.stdin:
    ctypes.CDLL(line.strip())
    print("loaded", flush=True)
`
	c := &child{Cmd: exec.Command("/usr/bin/python3", "-c", program)}
	c.SysProcAttr = attr
	c.Stderr = os.Stderr
	var err error
	if c.in, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.Start(); err != nil {
		t.Skipf("python3 cannot be started: %v", err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	c.expect(t, "ready\n")
	return c
}

func (c *child) load(t testing.TB, library string) {
	t.Helper()
	if _, err := io.WriteString(c.in, library+"\n"); err != nil {
		t.Fatal(err)
	}
	c.expect(t, "loaded\n")
}

func (c *child) expect(t testing.TB, want string) {
	t.Helper()
	if got, err := c.out.ReadString('\n'); got != want {
		t.Fatalf("the child said %q (%v), want %q", got, err, want)
	}
}

func (c *child) pid() uint32 { return uint32(c.Process.Pid) }

// run starts a program that stays until the test ends.
func run(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(name, args...)
	if err := c.Start(); err != nil {
		t.Skipf("%s cannot be started: %v", name, err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return c
}

// eventually waits for what another process does.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s for: %s", what)
		}
	}
}

func mustSelect(t testing.TB, targets ...string) *Selection {
	t.Helper()
	spec, err := ParseSpec(targets)
	if err != nil {
		t.Fatal(err)
	}
	s, err := spec.Open("/proc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// execIn runs a shell script in the mount namespace of a process.
func execIn(pid uint32, script string) ([]byte, error) {
	return exec.Command("nsenter", "-m", "-t", fmt.Sprint(pid), "sh", "-c", script).CombinedOutput()
}
