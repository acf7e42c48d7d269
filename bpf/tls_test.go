package bpf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate writes a self-signed one.
func certificate(t testing.TB, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// nginx starts one with TLS and keep-alive, and returns its address and the path of its access log.
func nginx(tp *tap) (address, log string) { return nginxWith(tp, "ssl", "") }

// nginxHTTP2 speaks HTTP/2 alone.
func nginxHTTP2(tp *tap, useTLS bool) (address string) {
	parameters := "http2"
	if useTLS {
		parameters = "ssl http2"
	}
	address, _ = nginxWith(tp, parameters, "client_max_body_size 1m; client_body_in_single_buffer on;")
	return address
}

// nginxWith takes parameters of listen, and more directives.
func nginxWith(tp *tap, parameters, directives string) (address, log string) {
	tp.t.Helper()
	dir := tp.t.TempDir()
	cert, key := certificate(tp.t, dir)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tp.t.Fatal(err)
	}
	address = listener.Addr().String()
	listener.Close()
	log = filepath.Join(dir, "access.log")
	config := filepath.Join(dir, "nginx.conf")
	err = os.WriteFile(config, fmt.Appendf(nil, `
daemon off; worker_processes 2; pid %[1]s/pid; error_log %[1]s/error.log; user root;
events { worker_connections 512; }
http {
  log_format ports "$remote_port $request_uri"; access_log %[2]s ports; keepalive_requests 100000;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server { listen %[3]s %[6]s; %[7]s ssl_certificate %[4]s; ssl_certificate_key %[5]s;
    location / { return 200 "port $remote_port\n"; } }
}`, dir, log, address, cert, key, parameters, directives), 0o600)
	if err != nil {
		tp.t.Fatal(err)
	}
	server := tp.command("nginx", "-c", config, "-p", dir)
	if err := server.Start(); err != nil {
		tp.t.Fatal(err)
	}
	tp.t.Cleanup(func() { _ = server.Process.Signal(os.Interrupt); _ = server.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return address, log
		}
		if time.Now().After(deadline) {
			tp.t.Fatal("nginx does not listen")
		}
	}
}

// Many connections at once on a real server: each stream has the peer that nginx logged for its requests, none is
// missing and none is wrong.
func TestNginxManyConnections(t *testing.T) {
	tp := start(t, Options{RingBytes: 32 << 20})
	requireProgram(t, "h2load")
	address, log := nginx(tp)
	const requests, connections = 3000, 16
	load := tp.command("h2load", "--h1", "-n", fmt.Sprint(requests), "-c", fmt.Sprint(connections), "https://"+address+"/x")
	load.Env = os.Environ() // the system's library: not probed
	if out, err := load.CombinedOutput(); err != nil || !strings.Contains(string(out), fmt.Sprintf("%d succeeded", requests)) {
		t.Fatalf("%v: %s", err, out)
	}
	events := tp.settle()
	lines, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	want := map[uint16]uint32{}
	for line := range strings.Lines(string(lines)) {
		var port uint16
		var path string
		if _, err := fmt.Sscan(line, &port, &path); err != nil || path != "/x" {
			t.Fatalf("access log says %q", line)
		}
		want[port]++
	}
	streams := of(talks(t, events), "nginx", layerTLS)
	if len(streams) != connections || len(want) != connections {
		t.Errorf("%d streams and %d logged connections, want %d", len(streams), len(want), connections)
	}
	for _, s := range streams {
		port := s.first.RemotePort
		if s.close == nil || s.close.PeerHeads != want[port] || s.close.Heads != want[port] {
			t.Errorf("port %d: closed %+v, want %d requests", port, s.close, want[port])
		}
		if got := strings.Count(string(s.side[egress].data), fmt.Sprintf("\r\n\r\nport %d\n", port)); uint32(got) != want[port] {
			t.Errorf("port %d: %d answers to this port, want %d", port, got, want[port])
		}
	}
	if lost := tp.lost(); len(lost) != 0 {
		t.Errorf("lost %v", lost)
	}
}

// The library writes into memory and the program sends it later: no socket is guessed.
const memoryBIO = `
import asyncio, ssl, sys
async def main():
    r, w = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]), ssl=ssl._create_unverified_context())
    w.write(b"GET /unbound HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await r.read()
asyncio.run(main())
`

func TestUnbound(t *testing.T) {
	server, port := serve(t, true, echo)
	t.Run("seen without a peer", func(t *testing.T) {
		tp := start(t, Options{})
		tp.run("python3", "-c", memoryBIO, fmt.Sprint(port))
		s := only(t, tp.settle(), "python3", layerTLS)
		if s.first.Conn != 0 || s.first.RemotePort != 0 || s.side[egress].flags&flagUnbound == 0 || tp.count("unbound_events") == 0 {
			t.Errorf("a peer was invented: %+v", s.first)
		}
		if s.side[egress].heads != 1 || s.side[ingress].heads != 1 || s.side[egress].flags&flagFresh == 0 {
			t.Errorf("%d and %d heads, flags %#x", s.side[egress].heads, s.side[ingress].heads, s.side[egress].flags)
		}
	})
	t.Run("not read under port rules", func(t *testing.T) {
		tp := start(t, Options{Select: Selector{Include: Rules{Ports: []uint16{port}}}})
		tp.run("python3", "-c", memoryBIO, fmt.Sprint(port))
		for _, s := range of(talks(t, data(tp.settle())), "python3", layerTLS) {
			t.Errorf("captured %+v", s.first)
		}
		if read := tp.count("bytes_read"); tp.count("undecided_port") == 0 || read > 16 {
			t.Errorf("%d bytes read, %d undecided", read, tp.count("undecided_port"))
		}
	})
	_ = server
}

// TLS that no watched library explains is named by its process.
func TestUncovered(t *testing.T) {
	tp := start(t, Options{})
	server, _ := serve(t, true, echo)
	p := tp.command("python3", "-c", keepAlive, "tls", server.URL[strings.LastIndexByte(server.URL, ':')+1:])
	p.Env = os.Environ() // the system's library: not probed
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("/early\n"))); err != nil {
		t.Fatal(err)
	}
	one := func() Coverage {
		t.Helper()
		list, err := tp.Coverage()
		if err != nil || len(list) != 1 || list[0].TGID != uint32(p.Process.Pid) {
			t.Fatalf("coverage %+v, %v; want of process %d alone", list, err, p.Process.Pid)
		}
		return list[0]
	}
	if c := one(); c.TLSBytes < 500 || c.DecodedBytes != 0 || c.TLSBytes != tp.count("uncovered_bytes") || c.Start == 0 || c.Ended {
		t.Errorf("coverage %+v, %d counted", c, tp.count("uncovered_bytes"))
	}
	in.Close()
	_ = p.Wait()
	if c := one(); !c.Ended || c.TLSBytes < 500 {
		t.Errorf("coverage %+v after the exit", c)
	}
	if list, err := tp.Coverage(); err != nil || len(list) != 0 {
		t.Errorf("coverage %v, %v after it was told", list, err)
	}
	if events := data(tp.settle()); len(events) != 0 {
		t.Errorf("captured%s", summary(events))
	}
}
