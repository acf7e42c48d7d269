package probe

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/spile/spile/agent/target"
)

// TestMain runs everything in a network and mount namespace of its own. Probes go to copies of libssl that no other
// program of this machine maps.
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

// counting is a set of programs that count how often they run.
type counting struct {
	multi    bool
	programs map[string]*ebpf.Program
	counts   map[string]*ebpf.Map
}

func (c *counting) Program(name string) *ebpf.Program { return c.programs[name] }
func (c *counting) UprobeMulti() bool                 { return c.multi }

func newCounting(t testing.TB, multi bool) *counting {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	c := &counting{multi: multi, programs: map[string]*ebpf.Program{}, counts: map[string]*ebpf.Map{}}
	add := func(name string) {
		if name == "" || c.programs[name] != nil {
			return
		}
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
		if err != nil {
			t.Skipf("create a map: %v", err)
		}
		spec := &ebpf.ProgramSpec{Type: ebpf.Kprobe, License: "GPL", Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 0),
			asm.StoreMem(asm.RFP, -4, asm.R0, asm.Word),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1),
			asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
			asm.Return(),
		}}
		if multi {
			spec.AttachType = ebpf.AttachTraceUprobeMulti
		}
		p, err := ebpf.NewProgram(spec)
		if err != nil {
			t.Fatalf("load: %v", err)
		}
		t.Cleanup(func() { p.Close(); m.Close() })
		c.programs[name], c.counts[name] = p, m
	}
	for _, lib := range target.Libraries() {
		for _, f := range lib.Functions {
			add(f.Enter)
			add(f.Exit)
		}
	}
	add(checkProgram)
	return c
}

func (c *counting) hits(t testing.TB, program string) uint64 {
	t.Helper()
	var n uint64
	if err := c.counts[program].Lookup(uint32(0), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// caller is a Python program that maps a library and calls what it is told to, as often as it is told.
type caller struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func newCaller(t testing.TB, library string) *caller {
	t.Helper()
	const program = `
import ctypes, sys
lib = ctypes.CDLL(sys.argv[1])
lib.SSL_free.restype = None
print("ready", flush=True)
for line in sys.stdin:
    name, times = line.split()
    total = 0
    for _ in range(int(times)):
        total += getattr(lib, name)(None) or 0
    print("done", total, flush=True)
`
	c := &caller{Cmd: exec.Command("/usr/bin/python3", "-c", program, library)}
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

func (c *caller) call(t testing.TB, times int) {
	t.Helper()
	c.sum(t, "SSL_free", times, 0)
}

// sum calls a function and checks the sum of what it returned.
func (c *caller) sum(t testing.TB, function string, times, want int) {
	t.Helper()
	if err := c.ask(function, times); err != nil {
		t.Fatal(err)
	}
	c.expect(t, fmt.Sprintln("done", want))
}

// ask begins calls; the answer comes as a line of c.out.
func (c *caller) ask(function string, times int) error {
	_, err := fmt.Fprintln(c.in, function, times)
	return err
}

func (c *caller) expect(t testing.TB, want string) {
	t.Helper()
	if got, err := c.out.ReadString('\n'); got != want {
		t.Fatalf("the caller said %q (%v), want %q", got, err, want)
	}
}

func (c *caller) process() target.Process {
	return target.Process{PID: uint32(c.Process.Pid), Start: 1}
}

// library copies libssl to a place of its own.
func library(t testing.TB, dir string) string {
	t.Helper()
	for _, lib := range target.Libraries() {
		for _, pattern := range lib.WellKnown {
			found, _ := filepath.Glob(pattern)
			if len(found) == 0 {
				continue
			}
			text, err := os.ReadFile(found[0])
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "libssl.so.3")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, text, 0o755); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	t.Skip("no libssl is installed")
	return ""
}

// described opens a library as the Watcher would hand it on.
func described(t testing.TB, path string) target.File {
	t.Helper()
	handle, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { handle.Close() })
	f := target.Describe(target.NewCache(target.Budget{Bytes: 8 << 20, Time: 10 * time.Second}), target.Libraries()[0], path, handle)
	if f.Problem != nil {
		t.Fatal(f.Problem)
	}
	return f
}

func quick() Times {
	return Times{Grace: 0, Forget: time.Hour, Sweep: time.Millisecond}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s for: %s", what)
		}
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	runtime.GC()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}
