package bpf

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A ring too small and a reader that sleeps: what is missing is known to the byte and to the message.
func TestRingFull(t *testing.T) {
	tp := &tap{Objects: load(t, Options{RingBytes: minRingBytes}), t: t, library: privateLibrary(t), stopped: make(chan struct{})}
	server, _ := serve(t, false, echo)
	const requests = 300
	tp.run("curl", "-s", fmt.Sprintf("%s/[1-%d]", server.URL, requests))
	tp.read()
	s := only(t, tp.settle(), "curl", layerSocket)
	if s.close == nil {
		t.Fatal("the control ring lost the end of the stream")
	}
	if s.close.Heads != requests || s.close.PeerHeads != requests {
		t.Errorf("closed with %d and %d heads, want %d", s.close.Heads, s.close.PeerHeads, requests)
	}
	var missing, heads uint64
	for d, final := range map[int]uint64{egress: s.close.Offset, ingress: s.close.PeerOffset} {
		side := s.side[d]
		for _, g := range side.gaps {
			missing += g.bytes
		}
		missing += final - side.next
	}
	for _, r := range tp.settle() {
		if r.Event.Kind == EventData && r.Event.Flags&flagHead != 0 {
			heads++
		}
	}
	if counted := tp.count("ring_full_bytes") + tp.count("pressure_bytes"); missing == 0 || missing != counted {
		t.Errorf("%d bytes missing between offsets, %d counted", missing, counted)
	}
	lost := tp.count("ring_full_heads") + tp.count("pressure_heads")
	if lost == 0 || heads+lost != 2*requests {
		t.Errorf("%d heads seen and %d lost, want %d together", heads, lost, 2*requests)
	}
	losses, err := tp.CgroupLosses()
	if err != nil {
		t.Fatal(err)
	}
	var byCgroup CgroupLoss
	for _, l := range losses {
		byCgroup.Bytes += l.Bytes
		byCgroup.Heads += l.Heads
	}
	if byCgroup.Bytes != missing || byCgroup.Heads != lost {
		t.Errorf("by cgroup %+v, want %d bytes and %d heads", losses, missing, lost)
	}
	events := uint64(s.side[egress].events + s.side[ingress].events)
	if events != tp.count("events") {
		t.Errorf("%d events read, %d handed over", events, tp.count("events"))
	}
}

// Two cgroups on a ring too small, with a reader that sleeps: what each lost is known to the byte and to the message.
func TestRingFullByCgroup(t *testing.T) {
	tp := &tap{Objects: load(t, Options{RingBytes: minRingBytes}), t: t, library: privateLibrary(t), stopped: make(chan struct{})}
	server, _ := serve(t, false, echo)
	asked := map[uint64]uint64{} // requests, by cgroup
	var clients []*exec.Cmd
	for _, requests := range []uint64{400, 1200} {
		fd, attr := cgroup(t)
		if fd < 0 {
			t.Skip("no cgroup of version 2 can be made here")
		}
		curl := tp.command("curl", "-s", "-o", "/dev/null", fmt.Sprintf("%s/[1-%d]", server.URL, requests))
		attr.Pdeathsig = syscall.SIGKILL
		curl.SysProcAttr = attr
		if err := curl.Start(); err != nil {
			t.Fatal(err)
		}
		var stat unix.Stat_t
		if err := unix.Fstat(fd, &stat); err != nil {
			t.Fatal(err)
		}
		asked[stat.Ino] = requests
		clients = append(clients, curl)
	}
	for _, c := range clients {
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	tp.read()
	counted := map[uint64]CgroupLoss{}
	losses, err := tp.CgroupLosses()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range losses {
		c := counted[l.Cgroup]
		counted[l.Cgroup] = CgroupLoss{Bytes: c.Bytes + l.Bytes, Heads: c.Heads + l.Heads}
	}
	events := tp.settle()
	arrived := map[uint64]uint64{} // heads, by cgroup
	for _, r := range events {
		if r.Event.Kind == EventData && r.Event.Flags&flagHead != 0 {
			arrived[r.Event.Cgroup]++
		}
	}
	streams := of(talks(t, events), "curl", layerSocket)
	for _, s := range streams {
		group := s.first.Cgroup
		if s.close == nil {
			t.Fatal("the control ring lost the end of a stream")
		}
		missing := s.close.Offset - s.side[egress].next + s.close.PeerOffset - s.side[ingress].next
		for _, side := range s.side {
			for _, g := range side.gaps {
				missing += g.bytes
			}
		}
		c, requests := counted[group], asked[group]
		if missing == 0 || c.Bytes != missing {
			t.Errorf("cgroup %d: %d bytes are missing, %d counted", group, missing, c.Bytes)
		}
		if requests == 0 || c.Heads == 0 || arrived[group]+c.Heads != 2*requests {
			t.Errorf("cgroup %d: %d heads arrived and %d were counted as lost, of %d", group, arrived[group], c.Heads, 2*requests)
		}
		t.Logf("cgroup %d: %d requests; %d heads and %d bytes lost", group, requests, c.Heads, c.Bytes)
		delete(counted, group)
	}
	if len(streams) != len(asked) || len(counted) != 0 {
		t.Errorf("%d streams of %d; losses of others: %v", len(streams), len(asked), counted)
	}
}

// One call above the cap: the first bytes are there, the length is told.
func TestCaptureCap(t *testing.T) {
	const bytes, limit = 200_000, 10_000
	tp := start(t, Options{CaptureBytes: limit})
	server, _ := serve(t, true, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	// One SSL_write of the whole body; the TLS library cuts the records.
	out := tp.run("python3", "-c", `
import ssl, socket, sys
context = ssl._create_unverified_context()
s = context.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
n = int(sys.argv[2])
head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % n
s.sendall(head + b"y" * n)
print(len(head), s.recv(4096).decode()[-6:])
`, server.URL[strings.LastIndexByte(server.URL, ':')+1:], fmt.Sprint(bytes))
	var head int
	var answer string
	if _, err := fmt.Sscan(out, &head, &answer); err != nil || answer != fmt.Sprint(bytes) {
		t.Fatalf("client says %q: %v", out, err)
	}
	s := only(t, tp.settle(), "python3", layerTLS)
	side := s.side[egress]
	if len(side.data) != limit || side.next != uint64(head+bytes) || len(side.gaps) != 0 {
		t.Errorf("%d bytes captured up to offset %d with gaps %v, want %d and %d", len(side.data), side.next, side.gaps, limit, head+bytes)
	}
	if side.flags&flagTruncated == 0 || tp.count("truncated_bytes") != uint64(head+bytes-limit) {
		t.Errorf("flags %#x, %d bytes counted as truncated, want %d", side.flags, tp.count("truncated_bytes"), head+bytes-limit)
	}
}

// Bytes that show no buffer move the offset, and are counted.
func TestSendfile(t *testing.T) {
	eachRung(t, func(t *testing.T, rung string) {
		tp := start(t, Options{SocketRung: rung})
		server, _ := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n)
		})
		out := tp.run("python3", "-c", `
import socket, sys, os, tempfile
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
f = tempfile.TemporaryFile()
f.write(b"z" * 50000)
f.flush()
s.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n")
at = 0
while at < 50000: at += os.sendfile(s.fileno(), f.fileno(), at, 50000 - at)
a = s.recv(4096)
s.sendall(b"GET /after HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
s.recv(4096)
print(a.decode()[-5:])
`, server.URL[strings.LastIndexByte(server.URL, ':')+1:])
		if strings.TrimSpace(out) != "50000" {
			t.Fatalf("client says %q", out)
		}
		s := only(t, tp.settle(), "python3", layerSocket)
		side := s.side[egress]
		if side.flags&flagUnseen == 0 || tp.count("unseen_bytes") != 50000 || len(side.gaps) != 0 {
			t.Errorf("flags %#x, gaps %v, %d bytes counted as unseen, want 50000", side.flags, side.gaps, tp.count("unseen_bytes"))
		}
		if side.heads != 2 || side.next-uint64(len(side.data)) != 50000 {
			t.Errorf("%d heads, %d bytes captured up to %d", side.heads, len(side.data), side.next)
		}
	})
}

// splice(2) from a socket passes no hook; TCP's sequence numbers tell where the next bytes belong.
func TestSplice(t *testing.T) {
	tp := start(t, Options{})
	const body = 5000
	server, _ := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(body))
		fmt.Fprint(w, strings.Repeat("b", body))
	})
	tp.run("python3", "-c", `
import socket, sys, ctypes, os
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
libc = ctypes.CDLL(None, use_errno=True)
def head():
    end = -1
    while end < 0: end = s.recv(4096, socket.MSG_PEEK).find(b"\r\n\r\n")
    assert len(s.recv(end + 4)) == end + 4
r, w = os.pipe()
for i in range(2):
    s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head()
    left = int(sys.argv[2])
    while left:
        n = libc.splice(s.fileno(), None, w, None, ctypes.c_size_t(left), 0)
        assert n > 0, ctypes.get_errno()
        os.read(r, n)
        left -= n
`, server.URL[strings.LastIndexByte(server.URL, ':')+1:], fmt.Sprint(body))
	s := only(t, tp.settle(), "python3", layerSocket)
	side := s.side[ingress]
	if len(side.gaps) != 1 || side.gaps[0].bytes != body || side.heads != 2 {
		t.Errorf("gaps %v and %d heads, want one gap of %d and 2 heads", side.gaps, side.heads, body)
	}
	if got := tp.count("unseen_bytes"); got != body {
		t.Errorf("%d bytes counted as unseen, want %d", got, body)
	}
}

// A muted stream is not read any more; its offsets go on.
func TestMute(t *testing.T) {
	tp := start(t, Options{})
	seen := make(chan struct{}, 2)
	goOn := make(chan struct{})
	server, _ := serve(t, true, func(w http.ResponseWriter, r *http.Request) {
		seen <- struct{}{}
		<-goOn
		fmt.Fprint(w, strings.Repeat("m", 1000))
	})
	done := make(chan string, 1)
	go func() { done <- tp.run("curl", "-sk", "--http1.1", server.URL+"/1", server.URL+"/2") }()
	<-seen
	s := only(t, tp.settle(), "curl", layerTLS)
	if err := tp.Mute(s.first.Stream); err != nil {
		t.Fatal(err)
	}
	before := tp.count("bytes_read")
	close(goOn)
	if out := <-done; len(out) != 2000 {
		t.Fatalf("curl got %d bytes", len(out))
	}
	s = only(t, tp.settle(), "curl", layerTLS)
	if after := tp.count("bytes_read"); after != before {
		t.Errorf("%d bytes were read after Mute", after-before)
	}
	if s.side[ingress].events != 0 || s.close == nil || s.close.PeerOffset < 2000 || tp.count("muted_bytes") < 2000 {
		t.Errorf("%d events after Mute, closed %+v", s.side[ingress].events, s.close)
	}
}
