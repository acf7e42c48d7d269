package probe

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
)

// talker is a Python program with both ends of TLS connections. Each asks and answers as often as it is told to.
const talker = `
import socket, ssl, sys, threading, time
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain("crt", "key")
client = ssl._create_unverified_context()
listener = socket.create_server(("127.0.0.1", 0), backlog=64)
def until(c, end):
    got = b""
    while not got.endswith(end):
        more = c.recv(65536)
        if not more: return None
        got += more
    return got
def serve(c):
    c = server.wrap_socket(c, server_side=True)
    while (ask := until(c, b"\r\n\r\n")) is not None:
        path = ask.split(b" ")[1]
        body = path + b" " + b"z" * 300 + b"\n"
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    c.close()
def accept():
    while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
done = threading.Event()
asked = []
def ask(n):
    c = client.wrap_socket(socket.create_connection(listener.getsockname()))
    i = 0
    while not done.is_set():
        c.sendall(b"GET /%d/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (n, i))
        answer = until(c, b"z\n")
        assert b"/%d/%d zz" % (n, i) in answer, answer[:100]
        i += 1
        time.sleep(0.0005)
    asked.append(i)
    c.close()
print(listener.getsockname()[1], flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=ask, args=(n,)) for n in range(int(sys.argv[1]))]
[t.start() for t in threads]
sys.stdin.readline()
done.set()
[t.join() for t in threads]
print(sum(asked), flush=True)
sys.stdin.readline()
`

// heard is what the reader got, by stream.
type heard struct {
	mu      sync.Mutex
	streams map[uint64]*[2]bytes.Buffer
}

func (h *heard) listen(t *testing.T, reader *bpf.Reader, stop <-chan struct{}) {
	var record bpf.Record
	for quiet := 0; quiet < 50; {
		err := reader.Read(&record)
		if errors.Is(err, bpf.ErrDrained) {
			select {
			case <-stop:
				quiet++
			default:
			}
			continue
		}
		if err != nil {
			t.Error(err)
			return
		}
		quiet = 0
		const tls = 2
		if e := record.Event; e.Kind == bpf.EventData && e.Layer == tls {
			h.mu.Lock()
			if h.streams[e.Stream] == nil {
				h.streams[e.Stream] = &[2]bytes.Buffer{}
			}
			h.streams[e.Stream][e.Direction&1].Write(record.Data)
			h.mu.Unlock()
		}
	}
}

// requests checks that the requests on each stream are /n/0, /n/1, ... with an answer to each, and counts them.
func (h *heard) requests(t *testing.T) (n int) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ends := range h.streams {
		ask, answer := ends[0].String(), ends[1].String()
		if strings.HasPrefix(ask, "HTTP/") {
			ask, answer = answer, ask
		}
		i := 0
		for ; ; i++ {
			head, rest, ok := strings.Cut(ask, "\r\n\r\n")
			if !ok {
				break
			}
			path := strings.Fields(head)[1]
			if !strings.HasSuffix(path, fmt.Sprintf("/%d", i)) {
				t.Errorf("request %d of a stream is %q", i, head)
				return n
			}
			at := strings.Index(answer, path+" z")
			if !strings.HasPrefix(answer, "HTTP/1.1 200 OK\r\n") || at < 0 || at > 60 {
				t.Errorf("the answer to %s is %.100q", path, answer)
				return n
			}
			ask, answer = rest, answer[at+len(path)+1+300+1:]
		}
		if ask != "" || answer != "" {
			t.Errorf("after %d requests there is %.60q and %.60q", i, ask, answer)
		}
		n += i
	}
	return n
}

// world is a place for programs with a libssl of their own, and a Registry that captures what they say.
type world struct {
	dir, lib string
	objects  *bpf.Objects
	heard    heard
	stop     chan struct{}
	ended    sync.WaitGroup
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to load programs")
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("ip: %v: %s", err, out)
	}
	w := &world{dir: t.TempDir(), stop: make(chan struct{}), heard: heard{streams: map[uint64]*[2]bytes.Buffer{}}}
	w.lib = library(t, filepath.Join(w.dir, "lib"))
	if out, err := w.shell("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out crt -subj /CN=spile -days 1").CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v: %s", err, out)
	}
	var self unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &self); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.objects, err = bpf.Load(bpf.Options{Select: bpf.Selector{Include: bpf.Rules{NetNS: []uint32{uint32(self.Ino)}}}, RingBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	reader, err := w.objects.Reader()
	if err != nil {
		t.Fatal(err)
	}
	w.ended.Go(func() { w.heard.listen(t, reader, w.stop) })
	t.Cleanup(func() { w.hush(); reader.Close(); w.objects.Close() })
	return w
}

// hush ends the listening once nothing comes any more.
func (w *world) hush() {
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	w.ended.Wait()
}

func (w *world) shell(script string) *exec.Cmd {
	c := exec.Command("sh", "-c", script)
	c.Dir = w.dir
	c.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Dir(w.lib))
	return c
}

// talks is the talker at work.
type talks struct {
	*exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	port int
}

func (w *world) talk(t *testing.T, connections int) *talks {
	t.Helper()
	c := w.shell(fmt.Sprintf("exec /usr/bin/python3 -c '%s' %d", strings.ReplaceAll(talker, "'", `'\''`), connections))
	p := &talks{Cmd: c}
	c.Stderr = os.Stderr
	p.in, _ = c.StdinPipe()
	out, _ := c.StdoutPipe()
	p.out = bufio.NewReader(out)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	p.port = p.number(t)
	return p
}

func (p *talks) process() target.Process { return target.Process{PID: uint32(p.Process.Pid), Start: 1} }

func (p *talks) tell() { fmt.Fprintln(p.in) }

func (p *talks) number(t *testing.T) (n int) {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if _, scan := fmt.Sscan(line, &n); scan != nil {
		t.Fatalf("the talker said %q (%v)", line, err)
	}
	return n
}

func lostOf(t *testing.T, o *bpf.Objects) (lost []string) {
	t.Helper()
	counts, err := o.Counts()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counts {
		if c.Lost && c.Value != 0 {
			lost = append(lost, fmt.Sprintf("%s=%d", c.Name, c.Value))
		}
	}
	return lost
}

// TestToACheaperPlaceUnderLoad lets a build that is new go all its way while its programs talk: probed in one process, in
// all, and then at the functions inside. Every request and answer is seen exactly once at each end.
func TestToACheaperPlaceUnderLoad(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	f := described(t, w.lib)
	if groupsOf(f) != 2 {
		t.Skipf("this libssl has no cheaper places: %v", f.Explain())
	}
	times := DefaultTimes()
	times.Canary, times.Survive, times.Exits, times.Check = 500*time.Millisecond, time.Second, 300*time.Millisecond, 20*time.Millisecond
	r := registryOf(t, Config{Programs: w.objects, Counters: w.objects, DataDir: dir, Times: times})
	closeAtEnd(t, r)
	const connections = 4
	p := w.talk(t, connections)
	if !r.Use(p.process(), f) {
		t.Fatalf("%+v", r.List())
	}
	p.tell()
	inside := func() bool {
		s := one(t, r)
		return s.Phase == Attached && strings.HasPrefix(s.Sites[0], "SSL_read: "+f.Sites[0].Inner.Name)
	}
	eventually(t, "the probes to be inside", inside)
	eventually(t, "the old ones to be out", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, p := range r.files[key{f.ID, 0}].at.parts {
			if p.role == sure && p.until != (time.Time{}) || p.role == check {
				return false
			}
		}
		return true
	})
	time.Sleep(time.Second)
	p.tell()
	asked := p.number(t)
	time.Sleep(100 * time.Millisecond)
	w.hush()
	if seen := w.heard.requests(t); seen != 2*asked || asked < 500 || len(w.heard.streams) != 2*connections {
		t.Errorf("%d requests on %d streams, want both ends of %d on %d", seen, len(w.heard.streams), asked, connections)
	}
	t.Logf("%d requests seen at both ends; lost: %v", asked, lostOf(t, w.objects))
	for _, s := range f.Sites {
		if s.Inner != nil && r.learned.inner(buildOf(f, ownerOf(f)), s.Inner) != agreed {
			t.Errorf("%s: nothing was learned", s.Symbol)
		}
	}
	list, err := r.Costs(func(target.Class, bool) float64 { return 1000 })
	if err != nil || len(list) != 1 || list[0].Hits < uint64(8*asked) || list[0].Cost < time.Duration(8*asked)*time.Microsecond {
		t.Errorf("%+v %v: want at least 8 hits for each of %d requests", list, err, asked)
	}
	eventually(t, "it to be written down", func() bool { return newLearned(dir, quiet()).survived(buildOf(f, ownerOf(f))) })
	// The next agent goes there at once, and in all processes.
	later := registryOf(t, Config{Programs: w.objects, Counters: w.objects, DataDir: dir, Times: times})
	closeAtEnd(t, later)
	if !later.Use(p.process(), f) || phase(t, later) != Attached || !strings.HasPrefix(one(t, later).Sites[0], "SSL_read: "+f.Sites[0].Inner.Name) {
		t.Errorf("%+v", later.List())
	}
}

// groupsOf counts the inner places of a file.
func groupsOf(f target.File) int {
	groups := map[target.Place]bool{}
	for _, s := range f.Sites {
		if s.Inner != nil {
			groups[*s.Inner] = true
		}
	}
	return len(groups)
}

// TestInsideFromTheStart has probes at cheaper places only, and a program that calls SSL_read and SSL_write (curl) talk to
// one that calls their _ex forms (Python).
func TestInsideFromTheStart(t *testing.T) {
	w := newWorld(t)
	f := described(t, w.lib)
	if groupsOf(f) != 2 {
		t.Skipf("this libssl has no cheaper places: %v", f.Explain())
	}
	r := registryOf(t, Config{Programs: w.objects, Counters: w.objects, Times: DefaultTimes()})
	closeAtEnd(t, r)
	for _, s := range f.Sites {
		if s.Inner != nil {
			r.learned.agree(buildOf(f, ownerOf(f)), s.Inner)
		}
	}
	r.learned.harmless(buildOf(f, ownerOf(f)))
	p := w.talk(t, 0)
	if !r.Use(p.process(), f) {
		t.Fatalf("%+v", r.List())
	}
	const clients, asked = 5, 10
	for i := range clients {
		out, err := w.shell(fmt.Sprintf("curl -sSk --http1.1 'https://127.0.0.1:%d/%d/[0-%d]'", p.port, i, asked-1)).CombinedOutput()
		if err != nil || bytes.Count(out, []byte("zz\n")) != asked {
			t.Fatalf("%v: %.200s", err, out)
		}
	}
	w.hush()
	if seen := w.heard.requests(t); seen != 2*clients*asked || len(w.heard.streams) != 2*clients {
		t.Errorf("%d requests on %d streams, want both ends of %d on %d", seen, len(w.heard.streams), clients*asked, clients)
	}
	if lost := lostOf(t, w.objects); lost != nil {
		t.Errorf("lost: %v", lost)
	}
}
