package bpf

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What h2load asks of nginx is counted to the request by the ends of its connections, although the ring has room for
// hardly any of it and nobody reads it.
func TestHTTP2RequestsAreCountedWithoutTheRing(t *testing.T) {
	for _, c := range []struct {
		name, scheme string
		layer        uint8
	}{{"tls", "https", layerTLS}, {"plain", "http", layerSocket}} {
		t.Run(c.name, func(t *testing.T) {
			eachRung(t, func(t *testing.T, rung string) {
				requireProgram(t, "h2load")
				tp := &tap{Objects: load(t, Options{RingBytes: minRingBytes, SocketRung: rung}), t: t, library: privateLibrary(t), stopped: make(chan struct{})}
				tp.attach(filepath.Join(tp.library, "libssl.so.3"))
				address := nginxHTTP2(tp, c.scheme == "https")
				const requests, connections = 4000, 8
				body := filepath.Join(t.TempDir(), "body")
				if err := os.WriteFile(body, make([]byte, 30_000), 0o600); err != nil {
					t.Fatal(err)
				}
				for _, args := range [][]string{{"-m", "20"}, {"-m", "3", "-d", body, "-H", "x-long: " + strings.Repeat("y", 500)}} {
					args = append(args, "-n", fmt.Sprint(requests/2), "-c", fmt.Sprint(connections), c.scheme+"://"+address+"/x")
					load := tp.command("h2load", args...)
					load.Env = os.Environ() // the system's library: not probed
					if out, err := load.CombinedOutput(); err != nil || !strings.Contains(string(out), fmt.Sprintf("%d succeeded", requests/2)) {
						t.Fatalf("%v: %s", err, out)
					}
				}
				tp.read()
				var ended, asked uint32
				for _, s := range of(talks(t, tp.settle()), "nginx", c.layer) {
					if s.close == nil {
						t.Fatal("the control ring lost the end of a stream")
					}
					ended++
					asked += s.close.PeerHeads
					if s.close.Heads != 0 {
						t.Errorf("%d heads were counted in what the server says", s.close.Heads)
					}
				}
				if ended != 2*connections || asked != requests {
					t.Errorf("%d requests on %d connections, want %d on %d", asked, ended, requests, 2*connections)
				}
				if tp.count("ring_full")+tp.count("pressure_calls") == 0 || tp.count("frames") != 0 {
					t.Errorf("lost %v, want events of the ring and no frames", tp.lost())
				}
			})
		})
	}
}

// A connection that was open before the programs is known for HTTP/2 by its next request.
func TestLateHTTP2IsCounted(t *testing.T) {
	requireKernel(t)
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/1" {
			asked <- struct{}{}
			<-answer
		}
		_, _ = io.WriteString(w, r.Proto)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	tp := &tap{t: t, library: privateLibrary(t), stopped: make(chan struct{})}
	out := make(chan string, 1)
	go func() { out <- tp.run("curl", "-sk", "--http2", server.URL+"/[1-4]") }()
	<-asked
	tp.Objects = load(t, Options{})
	tp.attach(filepath.Join(tp.library, "libssl.so.3"))
	tp.read()
	close(answer)
	if got := <-out; got != strings.Repeat("HTTP/2.0", 4) {
		t.Fatalf("curl says %q", got)
	}
	s := only(t, tp.settle(), "curl", layerTLS)
	if s.close == nil || s.close.Heads != 3 || s.close.PeerHeads != 0 {
		t.Errorf("closed %+v, want 3 requests of % x; lost %v", s.close, s.side[egress].data, tp.lost())
	}
}
