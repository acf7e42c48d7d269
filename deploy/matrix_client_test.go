package deploy

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// matrixClients is the table of clients.
func matrixClients(t *testing.T) []matrixClient {
	t.Helper()
	clients := []matrixClient{
		{installed("curl", "curl", []string{"h1", "h2"}), func(t *testing.T, m *matrix, mode string) caller { return oneShot{m, curl(mode), false} }},
		{installed("wget", "wget", []string{"h1"}), func(t *testing.T, m *matrix, _ string) caller { return oneShot{m, wget, true} }},
		{installed("gnutls-cli", "gnutls-cli", []string{"h1"}), func(t *testing.T, m *matrix, _ string) caller { return oneShot{m, gnutlsCLI, true} }},
	}
	for _, p := range peers(t) {
		clients = append(clients, matrixClient{p.participant, func(t *testing.T, m *matrix, mode string) caller {
			return openPeer(t, p, mode, m.address)
		}})
	}
	return forThisRun(t, clients, func(c matrixClient) participant { return c.participant })
}

// oneShot is a program that runs once per connection. The test chooses its port: by an option where it has one, else by
// leaving the kernel only that one to choose.
type oneShot struct {
	m    *matrix
	call func(t *testing.T, m *matrix, prefix string, port, requests int) []int
	pin  bool
}

func (o oneShot) round(t *testing.T, prefix string, conns, requests int) (asks []asked) {
	t.Helper()
	for range conns {
		o.m.fixed++
		asks = append(asks, o.one(t, prefix, requests)...)
	}
	return asks
}

// one leaves the ports as they were, also where the program fails.
func (o oneShot) one(t *testing.T, prefix string, requests int) (asks []asked) {
	t.Helper()
	if o.pin {
		pinPort(t, o.m.fixed, o.m.fixed)
		defer pinPort(t, firstPort, lastPort)
	}
	for _, n := range o.call(t, o.m, prefix, o.m.fixed, requests) {
		asks = append(asks, asked{o.m.fixed, n})
	}
	return asks
}

// firstPort and lastPort are Linux's own choice of local ports.
const firstPort, lastPort = 32768, 60999

// pinPort sets the local ports of the test's network namespace.
func pinPort(t testing.TB, first, last int) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "%d %d", first, last), 0o644))
}

// only keeps the requests of a round that a client can make.
func only(requests int, can ...int) (ns []int) {
	for n := range requests {
		if slices.Contains(can, n%4) {
			ns = append(ns, n)
		}
	}
	return ns
}

func (m *matrix) url(prefix string, port, n int) string {
	return fmt.Sprintf("https://%s/%s/%d/%d", m.address, prefix, port, n)
}

// lastOf is how many requests a connection can make: the server of the moment may close after the first.
func (m *matrix) lastOf(requests int) int {
	if m.single {
		return 1
	}
	return requests
}

func curl(mode string) func(*testing.T, *matrix, string, int, int) []int {
	return func(t *testing.T, m *matrix, prefix string, port, requests int) []int {
		t.Helper()
		ns := only(m.lastOf(requests), 0, 1, 2, 3)
		var args []string
		for i, n := range ns {
			if i > 0 {
				args = append(args, "--next")
			}
			args = append(args, "-sk", map[string]string{"h1": "--http1.1", "h2": "--http2"}[mode], "--local-port", strconv.Itoa(port), "-o", "/dev/null", "-m", "10")
			if n%4 == 2 {
				args = append(args, "-H", "Content-Type: application/json", "-d", `{"b":"`+strings.Repeat("y", postBytes-8)+`"}`)
			}
			args = append(args, m.url(prefix, port, n))
		}
		output(t, "curl", args...)
		return ns
	}
}

// wget makes no POST here, and takes a 404 for a failure.
func wget(t *testing.T, m *matrix, prefix string, port, requests int) []int {
	t.Helper()
	ns := only(m.lastOf(requests), 0, 1)
	args := []string{"-q", "--no-check-certificate", "-T", "10", "-t", "1", "-O", "/dev/null"}
	for _, n := range ns {
		args = append(args, m.url(prefix, port, n))
	}
	output(t, "wget", args...)
	return ns
}

// gnutlsCLI types requests into gnutls-cli, each line a TLS record of its own.
func gnutlsCLI(t *testing.T, m *matrix, prefix string, port, requests int) []int {
	t.Helper()
	ns := only(m.lastOf(requests), 0, 1, 3)
	host, serverPort, _ := strings.Cut(m.address, ":")
	cmd := exec.Command("gnutls-cli", "--insecure", "--port", serverPort, host)
	keys, err := cmd.StdinPipe()
	must(t, err)
	c := begin(t, cmd)
	eventually(t, 10*time.Second, "gnutls-cli is connected", func() bool { return strings.Contains(c.log.String(), "Simple Client Mode") })
	for i, n := range ns {
		connection := ""
		if i == len(ns)-1 {
			connection = "Connection: close\r\n"
		}
		_, err := fmt.Fprintf(keys, "GET /%s/%d/%d HTTP/1.1\r\nHost: %s\r\n%s\r\n", prefix, port, n, m.address, connection)
		must(t, err)
		eventually(t, 10*time.Second, "gnutls-cli prints the answer", func() bool { return strings.Count(c.log.String(), "HTTP/1.") > i })
		time.Sleep(20 * time.Millisecond)
	}
	select {
	case <-c.done:
	case <-time.After(10 * time.Second):
		t.Errorf("gnutls-cli: the server did not close\n%s", c.log)
	}
	c.kill()
	return ns
}

// peerCaller is one of the peer programs of testdata/matrix as a client.
type peerCaller struct {
	*process
	say  io.Writer
	hear *bufio.Reader
	// pause is how long each connection waits between two requests.
	pause time.Duration
}

func openPeer(t testing.TB, p peer, mode, address string) *peerCaller {
	t.Helper()
	argv := append(p.argv(t, "call", mode), address)
	cmd := exec.Command(argv[0], argv[1:]...)
	say, err := cmd.StdinPipe()
	must(t, err)
	out, in, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { out.Close() })
	cmd.Stdout = in
	c := &peerCaller{process: begin(t, cmd), say: say, hear: bufio.NewReader(out)}
	in.Close()
	return c
}

func (c *peerCaller) round(t *testing.T, prefix string, conns, requests int) (asks []asked) {
	t.Helper()
	_, err := fmt.Fprintln(c.say, prefix, conns, requests, c.pause.Milliseconds())
	must(t, err)
	var ports []string
	moved := map[string][][2]string{}
	for {
		line, err := c.hear.ReadString('\n')
		words := strings.Fields(line)
		switch {
		case err != nil || len(words) == 0 || words[0] == "error":
			t.Fatalf("%s: %s %v\n%s", c.Path, line, err, c.log)
		case words[0] == "ports":
			ports = words[1:]
		case words[0] == "moved" && len(words) == 4:
			moved[words[1]] = append(moved[words[1]], [2]string{words[2], words[3]})
		case words[0] == "done":
			for _, port := range ports {
				for n := range requests {
					for _, m := range moved[port] {
						if m[0] == strconv.Itoa(n) {
							port = m[1]
						}
					}
					own, err := strconv.Atoi(port)
					must(t, err)
					asks = append(asks, asked{own, n})
				}
			}
			return asks
		}
	}
}
