package deploy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"
)

func dials(address string) bool {
	c, err := net.Dial("tcp", address)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// client is a keep-alive connection driven byte by byte. Its own end is Go's TLS, which this version does not decode,
// so what the tests read of it is nginx's end alone.
type client struct {
	net.Conn
	r *bufio.Reader
}

func dialTLS(t *testing.T) *client {
	t.Helper()
	c, err := tls.Dial("tcp", "127.0.0.1:8443", &tls.Config{InsecureSkipVerify: true})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return &client{c, bufio.NewReader(c)}
}

func dialPlain(t *testing.T) *client {
	t.Helper()
	c, err := net.Dial("tcp", "127.0.0.1:8080")
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return &client{c, bufio.NewReader(c)}
}

func head(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: shop.example\r\nX-Filler: 0123456789\r\n\r\n"
}

func (c *client) send(t *testing.T, s string) {
	t.Helper()
	_, err := io.WriteString(c, s)
	must(t, err)
}

func (c *client) answer(t *testing.T) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	res, err := http.ReadResponse(c.r, nil)
	must(t, err)
	_, err = io.Copy(io.Discard, res.Body)
	must(t, err)
}

// TestSmokeLateJoin starts the product in the middle of connections: the half-seen call is absent, the first whole one is
// marked, and none is wrong.
func TestSmokeLateJoin(t *testing.T) {
	needsRoot(t)
	startNginx(t)
	conns := map[string]*client{"https": dialTLS(t), "http": dialPlain(t)}
	for _, c := range conns {
		c.send(t, head("/users/1"))
		c.answer(t)
		half := head("/users/2/orders")
		c.send(t, half[:30])
	}
	p := up(t)
	for _, c := range conns {
		c.send(t, head("/users/2/orders")[30:])
		c.answer(t)
		for i := range 3 {
			c.send(t, head(fmt.Sprintf("/api/v1/items/%d", 10+i)))
			c.answer(t)
		}
	}
	eventually(t, 10*time.Second, "three calls on each connection", func() bool { return len(p.calls()) >= 6 })
	time.Sleep(500 * time.Millisecond)
	seen := map[string][]callLine{}
	for _, c := range p.calls() {
		seen[c.Scheme] = append(seen[c.Scheme], c)
	}
	for scheme := range conns {
		calls := seen[scheme]
		if len(calls) != 3 {
			t.Errorf("%s: %d calls, want the 3 that began after the agent: %+v", scheme, len(calls), calls)
			continue
		}
		for i, c := range calls {
			if c.Path != fmt.Sprintf("/api/v1/items/%d", 10+i) || c.StatusCode != 200 {
				t.Errorf("%s: call %d is %s %d", scheme, i, c.Path, c.StatusCode)
			}
		}
		if !slices.Contains(calls[0].Coverage, "late_join") {
			t.Errorf("%s: the first call after joining lacks late_join: %v", scheme, calls[0].Coverage)
		}
	}
}

const slowServer = `
import socket, ssl, sys, time
ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); ctx.load_cert_chain(sys.argv[1] + "/cert.pem", sys.argv[1] + "/key.pem")
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1", 9444)); s.listen(8)
print("up", flush=True)
while True:
    c, _ = s.accept()
    try:
        c = ctx.wrap_socket(c, server_side=True)
        if b"/slow" in c.recv(65536):
            c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"); time.sleep(60)
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        c.close()
    except (OSError, ssl.SSLError): pass
`

// TestSmokeTargetKilled kills a server in the middle of its answer: the product goes on, and the half answer is no whole call.
func TestSmokeTargetKilled(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	writeCertificate(t, dir)
	p := up(t)
	serve := func() *process {
		s := start(t, "python3", "-c", slowServer, dir)
		eventually(t, 10*time.Second, "the server listens", func() bool { return dials("127.0.0.1:9444") })
		time.Sleep(1500 * time.Millisecond) // python's libssl may be a file of its own: let it be found
		return s
	}
	server := serve()
	slow := start(t, "curl", "-sk", "--http1.1", "https://127.0.0.1:9444/slow")
	time.Sleep(700 * time.Millisecond)
	server.kill()
	<-slow.done
	serve()
	output(t, "curl", "-sk", "--http1.1", "https://127.0.0.1:9444/after", "-o", "/dev/null")
	eventually(t, 10*time.Second, "the call after the kill", func() bool {
		return slices.ContainsFunc(p.calls(), func(c callLine) bool { return c.Path == "/after" && c.StatusCode == 200 })
	})
	for _, c := range p.calls() {
		if c.Path == "/slow" && !slices.Contains(c.Coverage, "truncated") {
			t.Errorf("the call that was cut is not marked truncated: %+v", c)
		}
	}
}
