package deploy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// asyncioServer reads and writes TLS through memory, not through a socket that OpenSSL knows.
const asyncioServer = `
import asyncio, ssl, sys
async def serve(r, w):
    try:
        while True:
            await r.readuntil(b"\r\n\r\n"); w.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); await w.drain()
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError): w.close()
async def main():
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(sys.argv[1] + "/cert.pem", sys.argv[1] + "/key.pem")
    s = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[2]), ssl=c)
    async with s: await s.serve_forever()
asyncio.run(main())
`

// nodeServer does so too, with the OpenSSL inside node.
const nodeServer = `
const fs = require("fs"), dir = process.argv[1];
const s = require("https").createServer({cert: fs.readFileSync(dir + "/cert.pem"), key: fs.readFileSync(dir + "/key.pem")}, (q, a) => a.end("ok"));
s.keepAliveTimeout = 0; s.requestTimeout = 0; s.headersTimeout = 0; s.listen(+process.argv[2], "127.0.0.1");
`

func dialAt(t testing.TB, port int) *client {
	t.Helper()
	c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{InsecureSkipVerify: true})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return &client{c, bufio.NewReader(c)}
}

func (c *client) port() int { return c.LocalAddr().(*net.TCPAddr).Port }

// TestSightOldConnections starts the product between the requests of connections that are already open. The next request
// on each has its peers; the one that was half sent is absent; the first that is told says that it joined late.
func TestSightOldConnections(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	writeCertificate(t, dir)
	goProgram := goBuilt(t, "goserver", fmt.Sprintf(goServer, "crypto/tls"), "-ldflags=-s -w")
	kinds := []struct {
		name, process string
		port          int
		// waits: the server is inside its read while it waits for a request, since before it was watched. Where that read
		// puts its bytes is not known, so the first request shows at the client's end alone.
		waits   bool
		command []string
	}{
		{"nginx", "nginx", 9540, false, nil},
		{"python asyncio", "python", 9541, false, []string{"python3", "-c", asyncioServer, dir, "9541"}},
		{"Go", "goserver", 9542, true, []string{goProgram, dir, "9542"}},
		{"node", "node", 9543, false, []string{"node", "-e", nodeServer, dir, "9543"}},
	}
	if _, err := exec.LookPath("node"); err != nil {
		t.Log("node is not installed: its part is left out")
		kinds = kinds[:3]
	}
	const each, conns = 3, 8
	open, half := map[string][]*client{}, map[string]*client{}
	for _, k := range kinds {
		if k.command == nil {
			sightNginx(t, k.port)
		} else {
			start(t, k.command[0], k.command[1:]...)
		}
		eventually(t, 10*time.Second, k.name+" listens", func() bool { return dials(fmt.Sprintf("127.0.0.1:%d", k.port)) })
		for range conns {
			c := dialAt(t, k.port)
			c.send(t, head("/users/1"))
			c.answer(t)
			open[k.name] = append(open[k.name], c)
		}
		half[k.name] = dialAt(t, k.port)
		half[k.name].send(t, head("/users/2")[:20])
	}
	time.Sleep(200 * time.Millisecond) // the servers have read what was sent
	p := up(t)
	want := 0
	for _, k := range kinds {
		half[k.name].send(t, head("/users/2")[20:])
		half[k.name].answer(t)
		half[k.name].send(t, head(fmt.Sprintf("/users/%d", half[k.name].port())))
		half[k.name].answer(t)
		for range each {
			for _, c := range open[k.name] {
				c.send(t, head(fmt.Sprintf("/users/%d", c.port())))
			}
			for _, c := range open[k.name] {
				c.answer(t)
			}
		}
		want += conns*each + 1
	}
	eventually(t, 10*time.Second, fmt.Sprintf("%d calls", want), func() bool { return len(p.calls()) >= want })
	time.Sleep(time.Second)
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			perConn := map[int][]callLine{}
			both := 0
			for _, c := range p.on(t).inOrder() {
				if c.Destination.Port != k.port {
					continue
				}
				perConn[c.Source.Port] = append(perConn[c.Source.Port], c)
				if c.Path != fmt.Sprintf("/users/%d", c.Source.Port) || c.StatusCode != 200 || c.Source.Address != "127.0.0.1" {
					t.Errorf("wrong peer: %s", brief(c))
				}
				first := k.waits && len(perConn[c.Source.Port]) == 1 && c.Observed == "client"
				if c.Observed != "both" && !first || !strings.HasPrefix(c.Destination.Process, k.process) {
					t.Errorf("an end was not seen: %s", brief(c))
				}
				if c.Observed == "both" {
					both++
				}
			}
			for _, conn := range open[k.name] {
				calls := perConn[conn.port()]
				late := slices.DeleteFunc(slices.Clone(calls), func(c callLine) bool { return !slices.Contains(c.Coverage, "late_join") })
				if want := map[bool]int{false: 1, true: 2}[k.waits]; len(calls) != each || len(late) != want {
					t.Errorf("the connection from %d has %d calls, want %d of which %d joined late: %s", conn.port(), len(calls), each, want, brief(calls...))
				}
			}
			if calls := perConn[half[k.name].port()]; len(calls) != 1 {
				t.Errorf("the connection with half a request has %d calls, want the one after it", len(calls))
			}
			t.Logf("%d calls from %d connections, %d seen at both ends", conns*each+1, len(perConn), both)
		})
	}
	if t.Failed() {
		p.fresh()
		t.Logf("unbound events %d, bound by prefix %d, by length %d", p.count("kernel", "unbound_events"), p.count("kernel", "bound_by_prefix"), p.count("kernel", "bound_by_length"))
	}
	for _, c := range p.calls() {
		if c.Destination.Port == 0 || c.Source.Port == 0 {
			t.Errorf("a call without its peers: %s", brief(c))
		}
	}
}
