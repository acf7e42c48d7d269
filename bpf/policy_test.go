package bpf

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const hugeBodies = `
import http.client, ssl, sys
c = http.client.HTTPSConnection("127.0.0.1", int(sys.argv[2]), context=ssl._create_unverified_context()) if sys.argv[1] == "tls" else http.client.HTTPConnection("127.0.0.1", int(sys.argv[2]))
for i in range(3):
    c.request("POST", "/big/%d" % i, b"y" * (1 << 20))
    c.getresponse().read()
`

// A message is copied up to its cap, however many writes carry it; the next message on the connection begins anew.
func TestMessageCap(t *testing.T) {
	for _, c := range []struct {
		name  string
		layer uint8
	}{{"plain", layerSocket}, {"tls", layerTLS}} {
		t.Run(c.name, func(t *testing.T) {
			const limit = 20_000
			tp := start(t, Options{MessageBytes: limit})
			_, port := serve(t, c.layer == layerTLS, echo)
			tp.run("python3", "-c", hugeBodies, c.name, fmt.Sprint(port))
			s := only(t, tp.settle(), "python3", c.layer)
			sent := &s.side[egress]
			if sent.heads != 3 || sent.next < 3<<20 || sent.flags&flagTruncated == 0 || len(sent.gaps) != 0 {
				t.Errorf("%d heads in %d bytes, flags %#x, gaps %v", sent.heads, sent.next, sent.flags, sent.gaps)
			}
			if n := len(sent.data); n < 3*limit-300 || n > 3*limit {
				t.Errorf("%d bytes were copied of 3 messages, want at most %d of each", n, limit)
			}
			for i := range 3 {
				if !strings.Contains(string(sent.data), fmt.Sprintf("POST /big/%d HTTP/1.1\r\n", i)) {
					t.Errorf("the head of message %d is missing", i)
				}
			}
			if got := s.side[ingress].heads; got != 3 || s.side[ingress].flags&flagTruncated != 0 {
				t.Errorf("%d answers, flags %#x", got, s.side[ingress].flags)
			}
			// Heads are looked at, besides what is copied: 16 bytes a write.
			if read := tp.count("bytes_read"); read > 4*limit {
				t.Errorf("%d bytes of user memory were read", read)
			}
		})
	}
}

// Head and body of each request in one write.
const wholeRequests = `
import socket, ssl, sys
c = ssl._create_unverified_context().wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
for i in range(3):
    c.sendall(b"POST /big/%d HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n" % i + b"y" * 20000)
    answer = b""
    while not answer.endswith(b"x\n"): answer += c.recv(65536)
`

// Over its budget a cgroup is not copied from: offsets and heads go on, so what is missing has a place and a number.
func TestBudget(t *testing.T) {
	const budget = 30_000
	tp := start(t, Options{BudgetBytes: budget})
	_, port := serve(t, true, echo)
	began := time.Now()
	tp.run("python3", "-c", wholeRequests, fmt.Sprint(port))
	took := time.Since(began)
	s := only(t, tp.settle(), "python3", layerTLS)
	lost, bytes := tp.count("budget_heads"), tp.count("budget_bytes")
	if s.close == nil || s.close.Heads != 3 || s.close.PeerHeads != 3 {
		t.Fatalf("closed %+v, want 3 heads in each direction", s.close)
	}
	seen := uint64(strings.Count(string(s.side[egress].data), "POST /big/") + strings.Count(string(s.side[ingress].data), "HTTP/1.1 200"))
	if lost == 0 || bytes == 0 || seen+lost != 6 {
		t.Errorf("%d heads seen + %d over the budget, want 6; %d bytes over it", seen, lost, bytes)
	}
	copied := len(s.side[egress].data) + len(s.side[ingress].data)
	// The last call that begins within the budget may go beyond it.
	if most := budget + int(took.Seconds()*budget) + 21_000; copied > most {
		t.Errorf("%d bytes copied in %s, want at most %d", copied, took, most)
	}
}

// Over the budget of bodies the first 4 KiB of each message come, and the rest is told to be missing.
func TestBodyBudget(t *testing.T) {
	tp := start(t, Options{BodyBytes: 1})
	_, port := serve(t, true, echo)
	tp.run("python3", "-c", wholeRequests, fmt.Sprint(port))
	s := only(t, tp.settle(), "python3", layerTLS)
	if s.close == nil || s.close.Heads != 3 || s.close.PeerHeads != 3 || strings.Count(string(s.side[egress].data), "POST /big/") != 3 {
		t.Fatalf("closed %+v, want 3 messages in each direction, all with their heads", s.close)
	}
	// One may go into debt.
	if n := len(s.side[egress].data); n < 3*briefMessage || n > 3*briefMessage+21_000 {
		t.Errorf("%d bytes of requests copied, want 4 KiB of each and one whole at most", n)
	}
	if tp.count("brief_bodies") == 0 {
		t.Error("no message was said to be cut")
	}
	if lost := tp.count("budget_heads") + tp.count("pressure_heads"); lost != 0 {
		t.Errorf("%d messages lost", lost)
	}
}

// Real QUIC Initial packets are as large, and begin, like these; the rest is ciphertext to everyone.
const quicTalk = `
import socket, sys, os
a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind(("127.0.0.1", 0))
b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); b.bind(("127.0.0.1", 0))
a.connect(b.getsockname()); b.connect(a.getsockname())
other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); other.sendto(b"\xc0" + bytes(1300), b.getsockname())
initial = bytes([0xc3, 0, 0, 0, 1, 8]) + os.urandom(8) + b"\x00\x00\x44\x9e" + os.urandom(1182)
a.send(initial); b.recv(2048)
for _ in range(10):
    b.send(b"\x41" + os.urandom(99)); a.recv(2048)
`

func TestQUICIsNamed(t *testing.T) {
	tp := start(t, Options{})
	if tp.Rungs()["socket"] != RungTracepoint {
		t.Skip("datagrams are seen by the rung tp_btf alone")
	}
	tp.run("python3", "-c", quicTalk)
	list, err := tp.Coverage()
	// 1,200 bytes sent and received, then ten answers of 100: sent by a socket that received an Initial, received by one that sent it.
	if want := uint64(2*1200 + 10*2*100); err != nil || len(list) != 1 || list[0].QUICBytes != want || list[0].TLSBytes != 0 {
		t.Errorf("coverage %+v, %v; want %d bytes of QUIC", list, err, want)
	}
	if n := tp.count("quic_bytes"); n != 2*1200+2000 {
		t.Errorf("%d bytes counted", n)
	}
	if events := data(tp.settle()); len(events) != 0 {
		t.Errorf("captured%s", summary(events))
	}
}

// What is open when the hooks come is known at once.
func TestOldConnections(t *testing.T) {
	requireKernel(t)
	server, _ := serve(t, false, echo)
	tp := &tap{t: t, library: privateLibrary(t), stopped: make(chan struct{})}
	p := startPatient(tp, "plain", server.URL)
	p.line(t)
	tp.Objects = load(t, Options{})
	if tp.Rungs()["open_sockets"] != "task_file" {
		t.Skip("the kernel has no iterator of open files")
	}
	// Both ends are in this namespace.
	if n := tp.count("old_conns"); n != 2 || entries(t, tp.maps["conns"]) != 2 {
		t.Errorf("%d connections found, %d kept; want the 2 ends of 1", n, entries(t, tp.maps["conns"]))
	}
	tp.attach(filepath.Join(tp.library, "libssl.so.3"))
	tp.read()
	p.in.Close()
	_ = p.cmd.Wait()
	tp.settle()
	if n := entries(t, tp.maps["conns"]); n != 0 {
		t.Errorf("%d connections kept after their end", n)
	}
}
