package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/flow"
	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/agent/probe"
	"github.com/spile/spile/agent/target"
	v1 "github.com/spile/spile/proto/spile/v1"
)

const nginxConf = `
daemon off;
master_process on;
worker_processes 2;
pid %[1]s/pid;
error_log %[1]s/error.log warn;
user root;
events { worker_connections 512; }
http {
	access_log off;
	keepalive_requests 100000;
	client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	server {
		listen 127.0.0.1:8080;
		listen 127.0.0.1:8081 http2;
		listen 127.0.0.1:8443 ssl http2;
		ssl_certificate %[1]s/cert.pem;
		ssl_certificate_key %[1]s/key.pem;
		location / { return 200 '{"padding": "%[2]s"}'; }
	}
}
`

// asyncioServer keeps its sockets from its TLS library: whose stream is whose is found out by the bytes.
const asyncioServer = `
import asyncio, ssl, sys

async def serve(r, w):
    try:
        while True:
            await r.readuntil(b"\r\n\r\n")
            w.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            await w.drain()
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        pass
    finally:
        w.close()

async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1] + "/cert.pem", sys.argv[1] + "/key.pem")
    context.set_alpn_protocols(["http/1.1"])
    server = await asyncio.start_server(serve, "127.0.0.1", 8444, ssl=context)
    await server.serve_forever()

asyncio.run(main())
`

const asyncio = "127.0.0.1:8444"

// startServers runs real servers until the test ends.
func startServers(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=a.example",
		"-keyout", dir+"/key.pem", "-out", dir+"/cert.pem").CombinedOutput(); err != nil {
		t.Fatalf("make a certificate: %v\n%s", err, out)
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, dir, strings.Repeat("x", 300)), 0o600); err != nil {
		t.Fatal(err)
	}
	for address, command := range map[string][]string{
		"127.0.0.1:8443": {"nginx", "-c", conf, "-e", dir + "/error.log"},
		asyncio:          {"python3", "-c", asyncioServer, dir},
	} {
		server := exec.Command(command[0], command[1:]...)
		server.Stderr = os.Stderr
		server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = server.Process.Signal(syscall.SIGTERM) // nginx's workers go with it
			_ = server.Wait()
		})
		listens(t, address)
	}
}

func listens(t *testing.T, address string) {
	t.Helper()
	for range 200 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("nobody listens at %s", address)
}

// TestPerConnectionOverload starves the tap on purpose: the smallest ring, and a reader that stops and stumbles. Of every
// connection, at both of its ends, what was seen and what was lost is what was sent, to the request.
func TestPerConnectionOverload(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root: it loads eBPF programs and makes network namespaces")
	}
	startServers(t)
	for _, c := range []struct{ protocol, address string }{
		{"h1", "127.0.0.1:8080"}, {"h2", "127.0.0.1:8081"}, {"h1s", "127.0.0.1:8443"}, {"h2s", "127.0.0.1:8443"}, {"h1s", asyncio},
	} {
		name := c.protocol
		if c.address == asyncio {
			name = "memory BIO"
		}
		t.Run(name, func(t *testing.T) {
			overload(t, c.protocol, c.address, config{ringBytes: 1 << 16, message: 64 << 10}, 100*time.Millisecond)
		})
	}
}

// TestPerConnectionBudget: what a budget leaves out is accounted for in the same way, though nothing was lost in the ring.
func TestPerConnectionBudget(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root: it loads eBPF programs and makes network namespaces")
	}
	startServers(t)
	for _, c := range []struct{ protocol, address string }{{"h1", "127.0.0.1:8080"}, {"h2s", "127.0.0.1:8443"}} {
		t.Run(c.protocol, func(t *testing.T) {
			overload(t, c.protocol, c.address, config{ringBytes: 32 << 20, message: 64 << 10, budget: 300_000}, 0)
		})
	}
}

// side is one end of one connection.
type side struct {
	port   string // the client's
	server bool
}

func overload(t *testing.T, protocol, address string, c config, stop time.Duration) {
	const connections = 20
	client := exec.Command("/proc/self/exe", protocol, address, fmt.Sprint(connections))
	client.Env = append(os.Environ(), asLoad+"=1")
	client.Stderr = os.Stderr
	client.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(stdout)
	if !said.Scan() || said.Text() != "ready" {
		t.Fatalf("the load says %q", said.Text())
	}

	spec, err := target.ParseSpec([]string{"netns=self"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tap, err := openTap(ctx, c, spec, nil, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer tap.close()
	// A build that is new is probed in one process first; what is to be counted here is the others' as well.
	for deadline := time.Now().Add(10 * time.Second); slices.ContainsFunc(tap.probes.List(), func(s probe.State) bool { return s.Phase == probe.Canary }); {
		if time.Now().After(deadline) {
			t.Fatalf("a library stays probed in one process: %+v", tap.probes.List())
		}
		time.Sleep(20 * time.Millisecond)
	}
	streams, sides, closed := map[chunk.StreamID]flow.Told{}, map[chunk.StreamID]side{}, map[side]chunk.Chunk{}
	unknown := 0
	line := newPipeline(pipelineConfig{
		key: replayKey(), node: "n1", boot: "b", owner: tap.owner, mute: tap.mute, coverage: tap.account.table,
		emit: func(c *v1.Call) {
			if slices.Contains(c.GetCoverage(), "peer_unknown") {
				unknown++
			}
		},
	})
	line.flow = flow.New(flow.Config{Limits: parse.DefaultLimits(), Emit: line.exchange, Settled: func(s *flow.Stream, told flow.Told) {
		line.settled(s, told)
		streams[s.ID] = add(streams[s.ID], told) // its socket may be found later
	}})
	ended := make(chan error, 1)
	n, closes := 0, atomic.Int64{}
	go func() {
		ended <- tap.ring.Run(ctx, func(c *chunk.Chunk) {
			if n++; n%500 == 0 {
				time.Sleep(stop)
			}
			if c.Conn != 0 && (c.Layer == chunk.LayerTLS) == strings.HasSuffix(protocol, "s") {
				sides[c.Stream] = sideOf(address, c.Local, c.Remote)
				if c.Kind == chunk.Close {
					closed[sides[c.Stream]] = *c
					closes.Store(int64(len(closed)))
				}
			}
			line.chunk(c)
		}, tap.process, line.tick)
	}()
	if _, err := fmt.Fprintln(stdin, "go"); err != nil {
		t.Fatal(err)
	}
	sent := map[string]uint64{}
	for said.Scan() {
		var port string
		var requests uint64
		if _, err := fmt.Sscan(said.Text(), &port, &requests); err != nil {
			t.Fatalf("the load says %q", said.Text())
		}
		sent[port] = requests
	}
	if err := client.Wait(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); closes.Load() < 2*connections && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) // the server closes its ends
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	line.finish()
	account, total := map[side]flow.Told{}, map[bool]flow.Told{}
	for stream, told := range streams {
		e := sides[stream]
		account[e], total[e.server] = add(account[e], told), add(total[e.server], told)
	}
	if len(sent) != connections {
		t.Fatalf("%d connections", len(sent))
	}
	for port, requests := range sent {
		for _, server := range []bool{true, false} {
			if got := account[side{port, server}]; got.Calls+got.Lost != requests || got.Unanswered != 0 {
				t.Errorf("port %s, server %v: %d requests were sent, seen %d + lost %d (unanswered %d)", port, server, requests, got.Calls, got.Lost, got.Unanswered)
				t.Logf("closed as %+v", closed[side{port, server}])
			}
		}
	}
	if len(account) != 2*connections {
		t.Errorf("accounts of %d ends of %d connections: %v", len(account), connections, account)
	}
	var rows flow.Told
	for _, r := range tap.account.table.Rows(1 << 16) {
		rows = add(rows, flow.Told{Calls: r.GetCalls(), Lost: r.GetLostCalls()})
	}
	if rows != add(total[true], total[false]) {
		t.Errorf("processes add up to %+v", rows)
	}
	for _, server := range []bool{true, false} {
		if got := total[server]; got.Lost == 0 || got.Calls == 0 {
			t.Errorf("server %v: %+v shows nothing", server, got)
		}
	}
	t.Logf("server ends %+v, client ends %+v; %d calls without a peer", total[true], total[false], unknown)
}

func sideOf(server string, local, remote netip.AddrPort) side {
	if local.String() == server {
		return side{fmt.Sprint(remote.Port()), true}
	}
	return side{fmt.Sprint(local.Port()), false}
}

func add(a, b flow.Told) flow.Told {
	return flow.Told{Calls: a.Calls + b.Calls, Lost: a.Lost + b.Lost, Unanswered: a.Unanswered + b.Unanswered}
}
