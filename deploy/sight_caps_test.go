package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bulkServer answers GET with 1 MiB, and POST with what it read.
const bulkServer = `
import http.server, ssl, sys
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, body):
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_GET(self): self.answer(b"x" * (1 << 20))
    def do_POST(self): self.answer(str(len(self.rfile.read(int(self.headers["content-length"])))).encode())
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), H)
ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); ctx.load_cert_chain(sys.argv[1] + "/cert.pem", sys.argv[1] + "/key.pem"); s.socket = ctx.wrap_socket(s.socket, server_side=True)
s.serve_forever()
`

// contentLine is what a call says of its bodies.
type contentLine struct {
	Request, Response struct{ Bytes uint64 }
}

// TestSightCaps moves bodies of 1 MiB both ways: the kernel copies no more of a message than it was told to, and the
// sizes are told all the same.
func TestSightCaps(t *testing.T) {
	needsRoot(t)
	const message, body, each = 32 << 10, 1 << 20, 5
	dir := t.TempDir()
	writeCertificate(t, dir)
	upload := filepath.Join(dir, "upload")
	must(t, os.WriteFile(upload, make([]byte, body), 0o644))
	start(t, "python3", "-c", bulkServer, dir, "9550")
	eventually(t, 10*time.Second, "the server listens", func() bool { return dials("127.0.0.1:9550") })
	p := startPair(t, fmt.Sprintf("SPILE_MESSAGE_BYTES=%d", message))
	for range each {
		output(t, "curl", "-sk", "--http1.1", "-o", "/dev/null", "https://127.0.0.1:9550/down")
		output(t, "curl", "-sk", "--http1.1", "-H", "Expect:", "-o", "/dev/null", "--data-binary", "@"+upload, "https://127.0.0.1:9550/up")
	}
	eventually(t, 5*time.Second, "the calls", func() bool { return len(p.calls()) == 2*each })
	p.fresh()
	// Each call has one long and one short message, and each is copied at two ends. Of every record of 16 KiB beyond the
	// cap, the first 16 bytes are looked at: a new message could begin there.
	const most = 2 * each * 2 * (message + body/(16<<10)*16 + 512)
	read := p.count("kernel", "bytes_read")
	if read > most || read < 2*each*2*message/2 {
		t.Errorf("the kernel copied %d bytes of %d transfers of %d, want up to %d and not much less", read, 2*each, body, most)
	}
	lines := jsonLines[contentLine](t, p.verb("calls", "--since", "1h"))
	for i, c := range p.calls() {
		got := lines[i]
		if c.Path == "/down" && got.Response.Bytes != body || c.Path == "/up" && got.Request.Bytes != body || c.Observed != "both" || c.StatusCode != 200 {
			t.Errorf("%s with %+v", brief(c), got)
		}
	}
	t.Logf("copied %d bytes of %d moved at two ends", read, 2*each*body*2)
}

// TestSightBudget gives each cgroup a budget and lets one of two overdraw it: no more is copied from it, what it moved
// beyond is counted, seen and lost make what was sent, and the quiet one is seen as if alone.
func TestSightBudget(t *testing.T) {
	needsRoot(t)
	const budget, rate, seconds = 40_000, 400, 3
	noisy, quiet := cgroup(t), cgroup(t)
	server := startNginx(t)
	p := startPair(t, fmt.Sprintf("SPILE_BUDGET_BYTES=%d", budget))
	uris := server.targets(t, "https://127.0.0.1:8443")
	must(t, os.WriteFile(filepath.Join(noisy, "cgroup.procs"), fmt.Append(nil, server.Process.Pid), 0o644))
	for _, worker := range children(t, server.Process.Pid) {
		must(t, os.WriteFile(filepath.Join(noisy, "cgroup.procs"), fmt.Append(nil, worker), 0o644))
	}
	sightNginx(t, 9560)
	t.Cleanup(server.kill)
	began := time.Now()
	load := start(t, "sh", "-c", `echo $$ > "$0/cgroup.procs" && exec h2load --h1 -n "$1" -c 4 --rps "$2" -i "$3"`, noisy, fmt.Sprint(rate*seconds), fmt.Sprint(rate/4), uris)
	for i := range 10 {
		output(t, "sh", "-c", `echo $$ > "$0/cgroup.procs" && exec curl -sk --http1.1 -o /dev/null "$1"`, quiet, fmt.Sprintf("https://127.0.0.1:9560/users/%d", 7000+i))
		time.Sleep(100 * time.Millisecond)
	}
	<-load.done
	took := time.Since(began).Seconds()
	if !strings.Contains(load.log.String(), fmt.Sprintf("%d done", rate*seconds)) {
		t.Fatalf("h2load:\n%s", load.log)
	}
	var seen, lost uint64
	eventually(t, 3*healthEvery, "the account of the end", func() bool {
		seen, lost = p.total()-10, p.count("flow", "lost_server")
		return seen+lost >= rate*seconds && p.total() >= 10
	})
	if seen+lost != rate*seconds || lost == 0 {
		t.Errorf("seen %d + lost %d = %d, want %d and some lost", seen, lost, seen+lost, rate*seconds)
	}
	read := p.count("kernel", "bytes_read")
	// A budget may be saved for a second. Of what is over it, the first bytes of each call are looked at, to count messages.
	if most := uint64(budget*(took+1)*1.05) + rate*seconds*4*32 + 2*10*2048; read > most {
		t.Errorf("the kernel copied %d bytes in %.1f s, want up to %d", read, took, most)
	}
	if over := p.count("kernel", "lost_budget_bytes") + p.count("kernel", "budget_bytes"); over == 0 {
		t.Errorf("what is over the budget is not counted: %+v", p.agent().Health.Counts)
	}
	whole := 0
	for _, c := range p.calls() {
		if c.Destination.Port == 9560 && c.Observed == "both" && c.StatusCode == 200 {
			whole++
		}
	}
	if whole != 10 {
		t.Errorf("%d of 10 calls of the quiet cgroup are whole", whole)
	}
	t.Logf("copied %d bytes in %.1f s at a budget of %d per second; seen %d, lost %d", read, took, budget, seen, lost)
}

// postgres speaks TLS as PostgreSQL does: a request in the clear, then rows and rows.
const postgres = `
import socket, ssl, struct, sys, time
end, port, dir = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def msg(kind, body): return kind + struct.pack("!I", len(body) + 4) + body
def take(s, n):
    b = b""
    while len(b) < n:
        got = s.recv(min(n - len(b), 65536))
        if not got: sys.exit(0)
        b += got
    return b
if end == "server":
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); ctx.load_cert_chain(dir + "/cert.pem", dir + "/key.pem")
    l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind(("127.0.0.1", port)); l.listen(4); print("up", flush=True)
    c, _ = l.accept(); assert take(c, 8) == struct.pack("!II", 8, 80877103); c.sendall(b"S"); c = ctx.wrap_socket(c, server_side=True)
    take(c, struct.unpack("!I", take(c, 4))[0] - 4)
    c.sendall(msg(b"R", struct.pack("!I", 0)) + msg(b"Z", b"I"))
    while True:
        take(c, 1); take(c, struct.unpack("!I", take(c, 4))[0] - 4)
        rows = b"".join(msg(b"D", struct.pack("!hi", 1, 200) + b"v" * 200) for _ in range(200))
        c.sendall(rows + msg(b"C", b"SELECT 200\0") + msg(b"Z", b"I"))
ctx = ssl.create_default_context(); ctx.check_hostname = False; ctx.verify_mode = ssl.CERT_NONE
s = socket.create_connection(("127.0.0.1", port)); s.sendall(struct.pack("!II", 8, 80877103)); assert take(s, 1) == b"S"; s = ctx.wrap_socket(s)
start = struct.pack("!I", 196608) + b"user\0alice\0\0"; s.sendall(struct.pack("!I", len(start) + 4) + start)
take(s, 9 + 6)
for i in range(100): s.sendall(msg(b"Q", b"select * from orders\0")); take(s, 200 * 211 + 16 + 6)
print("done", flush=True); time.sleep(60)
`

// TestSightMuted lets a stream that is not HTTP run through a library that is read: nothing is told of it, hardly a byte
// is copied, and it counts as decoded, for its bytes could be read. The agent and the collector never see themselves.
func TestSightMuted(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	writeCertificate(t, dir)
	wire := countPackets(t)
	server := start(t, "python3", "-c", postgres, "server", "9570", dir)
	eventually(t, 10*time.Second, "the server is up", func() bool { return server.log.String() != "" })
	p := up(t)
	client := start(t, "python3", "-c", postgres, "client", "9570", dir)
	eventually(t, 20*time.Second, "the client is done", func() bool { return strings.Contains(client.log.String(), "done") })
	want := wire.tcp(9570)
	eventually(t, 3*healthEvery, "the figures stand", func() bool {
		return about(p.covered(server.Process.Pid).TLSBytes, want) && about(p.covered(client.Process.Pid).TLSBytes, want)
	})
	if want < 4_000_000 {
		t.Fatalf("%d bytes crossed the wire", want)
	}
	read, silent := p.count("kernel", "bytes_read"), p.count("kernel", "muted_bytes")
	if read > 64<<10 || silent < 2*4_000_000 {
		t.Errorf("the kernel copied %d bytes of a stream that is not HTTP and muted %d of %d", read, silent, want)
	}
	if calls := p.calls(); len(calls) != 0 {
		t.Errorf("calls in a stream that is not HTTP: %s", brief(calls...))
	}
	t.Logf("%d bytes on the wire, copied %d, muted %d; server %+v", want, read, silent, p.covered(server.Process.Pid))
	agent := p.agentPID()
	for _, c := range p.agent().Health.Coverage {
		if c.PID == agent || c.PID == p.Process.Pid || strings.HasPrefix(c.Process, "spile") {
			t.Errorf("the product sees itself: %+v", c)
		}
	}
	if err := syscall.Kill(agent, 0); err != nil {
		t.Errorf("the agent is gone: %v", err)
	}
}
