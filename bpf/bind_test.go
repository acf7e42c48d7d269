package bpf

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// clearAndReuse talks to the first port, then with the same SSL object to the second.
const clearAndReuse = `
import ctypes, socket, sys
ssl = ctypes.CDLL("libssl.so.3")
for f in ("TLS_client_method", "SSL_CTX_new", "SSL_new"): getattr(ssl, f).restype = ctypes.c_void_p
s = ctypes.c_void_p(ssl.SSL_new(ctypes.c_void_p(ssl.SSL_CTX_new(ctypes.c_void_p(ssl.TLS_client_method())))))
buf = ctypes.create_string_buffer(65536)
for path, port in zip(("/one", "/two"), sys.argv[1:]):
    c = socket.create_connection(("127.0.0.1", int(port)))
    assert ssl.SSL_set_fd(s, c.fileno()) == 1
    assert ssl.SSL_connect(s) == 1
    request = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode()
    assert ssl.SSL_write(s, request, len(request)) == len(request)
    n = ssl.SSL_read(s, buf, 65536)
    print(buf.raw[:n].decode().splitlines()[0])
    ssl.SSL_clear(s)
`

// An SSL object that moves to a socket outside the selection is not read there, and not taken for its old peer.
func TestReusedOutsideTheSelection(t *testing.T) {
	requireKernel(t)
	watched, port := serve(t, true, echo)
	other, _ := serve(t, true, echo)
	rules := Rules{NetNS: []uint32{ownNetNS(t)}, Ports: []uint16{port}}
	tp := start(t, Options{Select: Selector{Include: rules}})
	number := func(url string) string { return url[strings.LastIndexByte(url, ':')+1:] }
	out := tp.run("python3", "-c", clearAndReuse, number(watched.URL), number(other.URL))
	if strings.Count(out, "200 OK") != 2 {
		t.Fatalf("client says %q", out)
	}
	s := only(t, tp.settle(), "python3", layerTLS)
	sent := string(s.side[egress].data)
	if !strings.HasPrefix(sent, "GET /one ") || strings.Contains(sent, "/two") || s.side[egress].heads != 1 {
		t.Errorf("sent %q with %d heads", sent, s.side[egress].heads)
	}
	if s.close == nil || s.close.Offset != s.side[egress].next {
		t.Errorf("closed %+v", s.close)
	}
}

// A process killed after its TLS library has sent and before the call returned: a call that nobody sees is counted.
func TestKilledInWrite(t *testing.T) {
	tp := start(t, Options{})
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	server, _ := serve(t, true, func(http.ResponseWriter, *http.Request) { asked <- struct{}{}; <-answer })
	defer close(answer)
	c := tp.command("python3", "-c", `
import ssl, socket, sys
s = ssl._create_unverified_context().wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
n = 64 << 20
s.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % n + b"y" * n)
`, fmt.Sprint(server.URL[strings.LastIndexByte(server.URL, ':')+1:]))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked // and the rest of the body waits for a server that does not read
	before := tp.count("calls_killed")
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	tp.settle()
	if got := tp.count("calls_killed") - before; got != 1 {
		t.Errorf("%d calls counted, want 1; lost %v", got, tp.lost())
	}
	if n := entries(t, tp.maps["tls_calls"]); n != 0 {
		t.Errorf("tls_calls keeps %d entries", n)
	}
}

// Probes that are taken out leave no thread in a call that nobody will see end.
func TestForgetCalls(t *testing.T) {
	tp := start(t, Options{})
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	server, _ := serve(t, true, func(http.ResponseWriter, *http.Request) { asked <- struct{}{}; <-answer })
	defer close(answer)
	c := tp.command("python3", "-c", `
import ssl, socket, sys
s = ssl._create_unverified_context().wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
s.recv(4096)
`, fmt.Sprint(server.URL[strings.LastIndexByte(server.URL, ':')+1:]))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	<-asked
	tp.settle() // it waits in SSL_read
	if err := tp.ForgetCalls([]uint32{7}); err != nil {
		t.Fatal(err)
	}
	if n := entries(t, tp.maps["tls_calls"]); n != 1 {
		t.Fatalf("%d threads in calls, want 1: that of another slot stays", n)
	}
	if err := tp.ForgetCalls([]uint32{0}); err != nil { // probes without a cookie
		t.Fatal(err)
	}
	if n := entries(t, tp.maps["tls_calls"]); n != 0 {
		t.Errorf("%d threads in calls, want none", n)
	}
}
