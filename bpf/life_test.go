package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// keepAlive asks once, waits for a line on its input, and asks again on the same connection.
const keepAlive = `
import http.client, ssl, sys
if sys.argv[1] == "tls":
    c = http.client.HTTPSConnection("127.0.0.1", int(sys.argv[2]), context=ssl._create_unverified_context())
else:
    c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[2]))
for path in ("/early", "/late"):
    c.request("GET", path)
    c.getresponse().read()
    print(path, flush=True)
    sys.stdin.readline()
`

type patient struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startPatient(tp *tap, layer string, url string) *patient {
	tp.t.Helper()
	return startScript(tp, keepAlive, layer, url[strings.LastIndexByte(url, ':')+1:])
}

func startScript(tp *tap, script string, args ...string) *patient {
	tp.t.Helper()
	c := tp.command("python3", append([]string{"-c", script}, args...)...)
	in, err := c.StdinPipe()
	if err != nil {
		tp.t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		tp.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		tp.t.Fatal(err)
	}
	tp.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return &patient{c, in, bufio.NewReader(out)}
}

func (p *patient) line(t testing.TB) {
	t.Helper()
	if _, err := p.out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
}

// Connections opened before the programs: captured from the next request, and never called fresh.
func TestLateJoin(t *testing.T) {
	for _, c := range []struct {
		name  string
		layer uint8
	}{{"plain", layerSocket}, {"tls", layerTLS}} {
		t.Run(c.name, func(t *testing.T) {
			requireKernel(t)
			server, _ := serve(t, c.layer == layerTLS, echo)
			tp := &tap{t: t, library: privateLibrary(t), stopped: make(chan struct{})}
			p := startPatient(tp, c.name, server.URL)
			p.line(t)
			tp.Objects = load(t, Options{})
			tp.attach(filepath.Join(tp.library, "libssl.so.3"))
			tp.read()
			_, _ = io.WriteString(p.in, "\n")
			p.line(t)
			p.in.Close()
			_ = p.cmd.Wait()
			s := only(t, tp.settle(), "python3", c.layer)
			if sent := string(s.side[egress].data); !strings.HasPrefix(sent, "GET /late ") || s.side[egress].heads != 1 {
				t.Errorf("sent %.100q with %d heads", sent, s.side[egress].heads)
			}
			if (s.side[egress].flags|s.side[ingress].flags)&(flagFresh|flagUnbound) != 0 {
				t.Errorf("flags %#x", s.side[egress].flags)
			}
			if !strings.Contains(string(s.side[ingress].data), fmt.Sprintf("X-Peer: 127.0.0.1:%d\r\n", s.first.LocalPort)) {
				t.Errorf("bound to port %d: %.200q", s.first.LocalPort, s.side[ingress].data)
			}
			if s.close == nil || len(tp.lost()) != 0 {
				t.Errorf("closed %v, lost %v", s.close, tp.lost())
			}
		})
	}
}

// A process killed in the middle of an exchange: its stream ends, its tables empty.
func TestTargetKilled(t *testing.T) {
	tp := start(t, Options{})
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	server, _ := serve(t, true, func(http.ResponseWriter, *http.Request) { asked <- struct{}{}; <-answer })
	p := startPatient(tp, "tls", server.URL)
	<-asked
	defer close(answer)
	tp.settle() // a write is read at its return, which the kill must not forestall
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	events := tp.settle()
	s := only(t, events, "python3", layerTLS)
	if s.close == nil || s.close.Heads != 1 || s.close.PeerHeads != 0 || s.close.Offset != s.side[egress].next {
		t.Errorf("closed %+v after %d bytes", s.close, s.side[egress].next)
	}
	exits := 0
	for _, r := range events {
		if r.Event.Kind == EventExit && r.Event.Tgid == uint32(p.cmd.Process.Pid) {
			exits++
		}
	}
	if exits == 0 {
		t.Error("the exit was not told")
	}
	for _, table := range []string{"tls_calls", "tls_streams"} {
		if n := entries(t, tp.maps[table]); n != 0 {
			t.Errorf("%s keeps %d entries", table, n)
		}
	}
}

func entries(t testing.TB, m *ebpf.Map) (n int) {
	t.Helper()
	var key, value []byte
	all := m.Iterate()
	for all.Next(&key, &value) {
		n++
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// A collected link would detach without a word.
func TestGarbageCollection(t *testing.T) {
	tp := start(t, Options{})
	for range 5 {
		runtime.GC()
		time.Sleep(20 * time.Millisecond)
	}
	server, port := serve(t, true, echo)
	out := tp.run("curl", "-sk", "--http1.1", server.URL)
	checkTalk(t, only(t, tp.settle(), "curl", layerTLS), port, 1, out)
}

func TestExecAndExit(t *testing.T) {
	tp := start(t, Options{})
	path := requireProgram(t, "sleep")
	tp.run(path, "0.1")
	kinds := map[uint8]Event{}
	for _, r := range tp.settle() {
		if strings.HasPrefix(string(r.Event.Comm[:]), "sleep\x00") || strings.HasPrefix(string(r.Event.Comm[:]), "busybox\x00") {
			kinds[r.Event.Kind] = r.Event
		}
	}
	exec, exit := kinds[EventExec], kinds[EventExit]
	if exec.Tgid == 0 || exec.Tgid != exit.Tgid || exec.Start == 0 || exec.Start != exit.Start || exit.Time-exec.Time < uint64(50*time.Millisecond) {
		t.Errorf("exec %+v\nexit %+v", exec, exit)
	}
	if want := fileID(t, path); exec.Offset != want.Dev || exec.PeerOffset != want.Ino {
		t.Errorf("executable %d:%d, want %v", exec.Offset, exec.PeerOffset, want)
	}
}

const loaderDir = "SPILE_TEST_LOADER"

// TestLoader is the process that TestLoaderKilled kills.
func TestLoader(t *testing.T) {
	dir := os.Getenv(loaderDir)
	if dir == "" {
		t.Skip("runs as a child of TestLoaderKilled")
	}
	tp := &tap{Objects: load(t, Options{}), t: t}
	tp.attach(filepath.Join(dir, "libssl.so.3"))
	for _, p := range tp.programs {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		fmt.Println("program", id)
	}
	fmt.Println("ready")
	time.Sleep(time.Minute)
}

// SIGKILL of the process that loaded leaves no program, and so no hook, behind.
func TestLoaderKilled(t *testing.T) {
	requireKernel(t)
	c := exec.Command("/proc/self/exe", "-test.run=^TestLoader$")
	c.Env = append(os.Environ(), loaderDir+"="+privateLibrary(t))
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var ids []ebpf.ProgramID
	ready := false
	for lines := bufio.NewScanner(out); !ready && lines.Scan(); {
		var id ebpf.ProgramID
		if _, err := fmt.Sscanf(lines.Text(), "program %d", &id); err == nil {
			ids = append(ids, id)
		}
		ready = lines.Text() == "ready"
	}
	if !ready || len(ids) < 15 {
		t.Fatalf("the loader said %d programs, ready %v", len(ids), ready)
	}
	alive := func() (n int) {
		for _, id := range ids {
			p, err := ebpf.NewProgramFromID(id)
			if err == nil {
				p.Close()
				n++
			} else if !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		return n
	}
	if n := alive(); n != len(ids) {
		t.Fatalf("%d of %d programs are there before", n, len(ids))
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	deadline := time.Now().Add(10 * time.Second)
	for alive() > 0 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	if n := alive(); n > 0 {
		t.Errorf("%d programs outlive their loader", n)
	}
}
