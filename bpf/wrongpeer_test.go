package bpf

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

const batchMemoryBIO = `
import socket, ssl, sys, time
ctx = ssl._create_unverified_context()
port = int(sys.argv[1])
class C:
    def __init__(self):
        self.s = socket.create_connection(("127.0.0.1", port))
        self.i, self.o = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.t = ctx.wrap_bio(self.i, self.o)
        while True:
            try: self.t.do_handshake(); break
            except ssl.SSLWantReadError:
                self.s.sendall(self.o.read()); self.i.write(self.s.recv(65536))
        self.s.sendall(self.o.read())
        self.own = self.s.getsockname()[1]
cs = [C(), C()]
time.sleep(0.2)
for i in range(8):
    for c in cs: c.t.write(b"GET /%d/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (c.own, i))
    for c in cs: c.s.sendall(c.o.read())
    time.sleep(0.05)
    for c in cs: c.buf = c.s.recv(65536)
    for c in cs:
        c.i.write(c.buf)
        c.t.read(65536)
for c in cs: c.s.close()
`

// Two connections that are received from before either is decrypted, with messages of one length: their lengths say
// nothing, so nothing is bound by them.
func TestBatchedMemoryBIO(t *testing.T) {
	tp := start(t, Options{})
	_, port := serve(t, true, echo)
	tp.run("python3", "-c", batchMemoryBIO, fmt.Sprint(port))
	streams := of(talks(t, tp.settle()), "python3", layerTLS)
	if len(streams) != 2 {
		t.Fatalf("%d streams, want 2", len(streams))
	}
	for _, s := range streams {
		if s.close != nil && s.close.RemotePort != 0 && !strings.HasPrefix(string(s.side[egress].data), fmt.Sprintf("GET /%d/", s.close.LocalPort)) {
			t.Errorf("the stream of port %d says %.40q", s.close.LocalPort, s.side[egress].data)
		}
	}
}

const sniCallback = `
import socket, ssl, sys, threading, time
port, d = int(sys.argv[1]), sys.argv[2]
cctx = ssl._create_unverified_context()
class Mem:
    def __init__(self, s, ctx, server):
        self.s, self.i, self.o = s, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.t = ctx.wrap_bio(self.i, self.o, server_side=server)
    def shake(self):
        while True:
            try: self.t.do_handshake(); break
            except ssl.SSLWantReadError:
                out = self.o.read()
                if out: self.s.sendall(out)
                self.i.write(self.s.recv(65536))
        out = self.o.read()
        if out: self.s.sendall(out)
    def say(self, b): self.t.write(b); self.s.sendall(self.o.read())
    def hear(self):
        while True:
            try: return self.t.read(65536)
            except ssl.SSLWantReadError: self.i.write(self.s.recv(65536))
b = Mem(socket.create_connection(("127.0.0.1", port)), cctx, False)
b.shake()
own = b.s.getsockname()[1]
b.say(b"GET /B/%d HTTP/1.1\r\nHost: x\r\n\r\n" % own); b.hear()
sctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); sctx.load_cert_chain(d + "/cert.pem", d + "/key.pem")
def cb(obj, name, ctx): b.say(b"GET /B/%d HTTP/1.1\r\nHost: x\r\n\r\n" % own)
sctx.sni_callback = cb
l = socket.create_server(("127.0.0.1", 0))
def client():
    c = cctx.wrap_socket(socket.create_connection(l.getsockname()), server_hostname="name.example")
    me = c.getsockname()[1]
    c.sendall(b"GET /A/%d HTTP/1.1\r\nHost: x\r\n\r\n" % me); c.recv(65536); time.sleep(0.3); c.close()
th = threading.Thread(target=client); th.start()
a = Mem(l.accept()[0], sctx, True)
a.shake()
b.hear()
a.hear(); a.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
b.say(b"GET /B/%d HTTP/1.1\r\nHost: x\r\n\r\n" % own); b.hear()
th.join(); a.s.close(); b.s.close()
`

// A program that its library calls back in a handshake talks on another connection there: each keeps its own socket.
func TestHandshakeThatWritesElsewhere(t *testing.T) {
	tp := start(t, Options{})
	tp.watchMemory()
	dir := t.TempDir()
	certificate(t, dir)
	_, port := serve(t, true, echo)
	tp.run("python3", "-c", sniCallback, fmt.Sprint(port), dir)
	streams := of(talks(t, tp.settle()), "python3", layerTLS)
	if len(streams) != 3 {
		t.Fatalf("%d streams, want the upstream and both ends of the other", len(streams))
	}
	for _, s := range streams {
		own, peer := s.first, s.first.RemotePort
		if s.close != nil {
			own, peer = *s.close, s.close.RemotePort
		}
		said := string(s.side[egress].data)
		want, n := fmt.Sprintf("GET /A/%d ", own.LocalPort), 1
		if peer == port {
			want, n = fmt.Sprintf("GET /B/%d ", own.LocalPort), 3
		} else if strings.HasPrefix(said, "HTTP/1.1 ") {
			said, want = string(s.side[ingress].data), fmt.Sprintf("GET /A/%d ", peer)
		}
		if strings.Count(said, want) != n || strings.Count(said, "GET ") != n {
			t.Errorf("ports %d and %d: %.80q, want %q %d times", own.LocalPort, peer, said, want, n)
		}
	}
}

const askOften = `
import ssl, socket, sys
s = ssl._create_unverified_context().wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
def ask():
    s.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"); s.recv(65536)
ask(); print("said", flush=True); sys.stdin.readline()
for i in range(100): ask()
print("said", flush=True); sys.stdin.readline()
`

// Bytes that pass while no probe is in count as what they are.
func TestCoverageStopsWithTheProbes(t *testing.T) {
	tp := start(t, Options{})
	_, port := serve(t, true, echo)
	p := startScript(tp, askOften, fmt.Sprint(port))
	p.line(t)
	one := func() Coverage {
		t.Helper()
		list, err := tp.Coverage()
		if err != nil || len(list) != 1 {
			t.Fatalf("coverage %v, %v", list, err)
		}
		return list[0]
	}
	before := one()
	if before.DecodedBytes != before.TLSBytes {
		t.Errorf("with the probes: %+v", before)
	}
	for _, l := range tp.links {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	tp.links = nil
	_, _ = io.WriteString(p.in, "\n")
	p.line(t)
	after := one()
	if more, decoded := after.TLSBytes-before.TLSBytes, after.DecodedBytes-before.DecodedBytes; more < 20_000 || decoded > 4096 {
		t.Errorf("without them %d more bytes passed and %d of them count as decoded", more, decoded)
	}
	p.in.Close()
	_ = p.cmd.Wait()
	tp.settle()
}
