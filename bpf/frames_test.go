package bpf

import (
	"fmt"
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
				if tp.count("ring_full") == 0 || tp.count("frames") != 0 {
					t.Errorf("lost %v, want events of the ring and no frames", tp.lost())
				}
			})
		})
	}
}
