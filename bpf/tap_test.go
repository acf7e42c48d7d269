package bpf

import (
	"bytes"
	"errors"
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

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// requireKernel skips what this user or kernel cannot run.
func requireKernel(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to load programs")
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		t.Skip("needs kernel type information:", err)
	}
}

func requireProgram(t testing.TB, name string) string {
	t.Helper()
	// The distribution's first: elsewhere a name may be a script that starts others.
	path, err := exec.LookPath("/usr/bin/" + name)
	if err != nil {
		path, err = exec.LookPath(name)
	}
	if err != nil {
		t.Skip("needs the program", name)
	}
	return path
}

func ownNetNS(t testing.TB) uint32 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &stat); err != nil {
		t.Fatal(err)
	}
	return uint32(stat.Ino)
}

// tap is loaded objects, the probes of a private libssl, and what they said.
type tap struct {
	*Objects
	t       testing.TB
	library string // directory of the private libssl
	links   []link.Link
	reader  *Reader
	stopped chan struct{}
	mu      sync.Mutex
	events  []Record
}

// load loads with rules narrowed to this network namespace, and fails with the verifier's words.
func load(t testing.TB, options Options) *Objects {
	t.Helper()
	requireKernel(t)
	if len(options.Select.Include.NetNS) == 0 {
		options.Select.Include.NetNS = []uint32{ownNetNS(t)}
	}
	if options.RingBytes == 0 {
		options.RingBytes = 8 << 20
	}
	o, err := Load(options)
	if verifier := (*ebpf.VerifierError)(nil); errors.As(err, &verifier) {
		t.Fatalf("%v\n%s", err, tail(fmt.Sprintf("%+v", verifier)))
	}
	if errors.Is(err, ErrNoSocketHook) && options.SocketRung != "" {
		t.Skipf("the kernel has no rung %s: %v", options.SocketRung, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// slowMachine is set where the processor is emulated, and a drain may wait for its turn.
const slowMachine = "SPILE_TEST_SLOW"

func tail(s string) string { return s[max(0, len(s)-6000):] }

// start loads, attaches to a private copy of libssl and reads.
func start(t testing.TB, options Options) *tap {
	t.Helper()
	tp := &tap{Objects: load(t, options), t: t, stopped: make(chan struct{})}
	tp.library = privateLibrary(t)
	tp.attach(filepath.Join(tp.library, "libssl.so.3"))
	tp.read()
	return tp
}

func (tp *tap) read() {
	reader, err := tp.Reader()
	if err != nil {
		tp.t.Fatal(err)
	}
	tp.reader = reader
	tp.t.Cleanup(tp.stop)
	go func() {
		defer close(tp.stopped)
		var record Record
		for {
			err := reader.Read(&record)
			if errors.Is(err, ErrDrained) {
				continue
			}
			if err != nil {
				if !errors.Is(err, os.ErrClosed) {
					tp.t.Error(err)
				}
				return
			}
			tp.mu.Lock()
			tp.events = append(tp.events, Record{Event: record.Event, Data: bytes.Clone(record.Data)})
			tp.mu.Unlock()
		}
	}()
}

func (tp *tap) stop() {
	if err := tp.reader.Close(); err != nil {
		tp.t.Error(err)
	}
	<-tp.stopped
	var out sync.WaitGroup // each waits for the kernel some 50 ms, and all at once no longer
	for _, l := range tp.links {
		out.Go(func() {
			if err := l.Close(); err != nil {
				tp.t.Error(err)
			}
		})
	}
	out.Wait()
	tp.links = nil
}

// privateLibrary copies libssl, so that only programs told to use the copy are probed.
func privateLibrary(t testing.TB) string {
	t.Helper()
	var from string
	for _, dir := range []string{"/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/lib", "/usr/lib"} {
		if path := filepath.Join(dir, "libssl.so.3"); from == "" {
			if _, err := os.Stat(path); err == nil {
				from = path
			}
		}
	}
	if from == "" {
		t.Skip("needs libssl.so.3")
	}
	library, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "libssl.so.3"), library, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// probes are the programs of each function of the library.
var probes = []struct{ symbol, program string }{
	{"SSL_read", "ssl_read"}, {"SSL_write", "ssl_write"}, {"SSL_read_ex", "ssl_read_ex"}, {"SSL_write_ex", "ssl_write_ex"},
	{"SSL_do_handshake", "ssl_handshake"}, {"SSL_accept", "ssl_handshake"}, {"SSL_connect", "ssl_handshake"},
}

func (tp *tap) attach(path string) {
	tp.t.Helper()
	exe, err := link.OpenExecutable(path)
	if err != nil {
		tp.t.Fatal(err)
	}
	add := func(l link.Link, err error) {
		if err != nil {
			tp.t.Fatal(err)
		}
		tp.links = append(tp.links, l)
	}
	for _, p := range probes {
		enter, exit := tp.Program(p.program+"_enter"), tp.Program(p.program+"_exit")
		if tp.UprobeMulti() {
			add(exe.UretprobeMulti([]string{p.symbol}, exit, nil))
			add(exe.UprobeMulti([]string{p.symbol}, enter, nil))
		} else {
			add(exe.Uretprobe(p.symbol, exit, nil))
			add(exe.Uprobe(p.symbol, enter, nil))
		}
	}
	if tp.UprobeMulti() {
		add(exe.UprobeMulti([]string{"SSL_free"}, tp.Program("ssl_free_enter"), nil))
	} else {
		add(exe.Uprobe("SSL_free", tp.Program("ssl_free_enter"), nil))
	}
}

// settle waits until many drains have passed without an event, and returns all so far.
func (tp *tap) settle() []Record {
	tp.t.Helper()
	quiet := 300 * time.Millisecond
	if os.Getenv(slowMachine) != "" {
		quiet = 2 * time.Second
	}
	for last, deadline := -1, time.Now().Add(20*time.Second); ; {
		tp.mu.Lock()
		events := slices.Clone(tp.events)
		tp.mu.Unlock()
		if len(events) == last || time.Now().After(deadline) {
			return events
		}
		last = len(events)
		time.Sleep(quiet)
	}
}

func (tp *tap) count(name string) uint64 {
	tp.t.Helper()
	counts, err := tp.Counts()
	if err != nil {
		tp.t.Fatal(err)
	}
	for _, c := range counts {
		if c.Name == name {
			return c.Value
		}
	}
	tp.t.Fatalf("no counter %q", name)
	return 0
}

// lost returns the counters of loss that are not zero.
func (tp *tap) lost() []Count {
	tp.t.Helper()
	counts, err := tp.Counts()
	if err != nil {
		tp.t.Fatal(err)
	}
	return slices.DeleteFunc(counts, func(c Count) bool { return !c.Lost || c.Value == 0 })
}

// command runs with the private library and dies with the test.
func (tp *tap) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(requireProgram(tp.t, name), args...)
	c.Env = append(os.Environ(), "LD_LIBRARY_PATH="+tp.library)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

func (tp *tap) run(name string, args ...string) string {
	tp.t.Helper()
	c := tp.command(name, args...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, io.Discard
	if err := c.Run(); err != nil {
		tp.t.Fatalf("%s %q: %v", name, args, err)
	}
	return out.String()
}
