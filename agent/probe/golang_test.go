package probe

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
	"golang.org/x/sys/unix"
)

// goTalk is a server and its clients in one program: each client connection has its own port in the path, and the server
// answers with the port that it sees.
const goTalk = `package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
)

func main() {
	connections, _ := strconv.Atoi(os.Args[1])
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, port, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "port %s\n%s", port, strings.Repeat("z", 3000))
	}))
	server.StartTLS()
	address := server.Listener.Addr().String()
	if os.Args[2] == "stack" {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		address = listener.Addr().String()
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				go serve(tls.Server(c, &tls.Config{Certificates: server.TLS.Certificates}))
			}
		}()
	}
	var all sync.WaitGroup
	for range 50 { // writes that fail leave their goroutine in the middle of a call, and others come after it
		all.Go(func() {
			conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				panic(err)
			}
			conn.Close()
			if _, err := conn.Write([]byte("GET /stale HTTP/1.1\r\n\r\n")); err == nil {
				panic("written after the end")
			}
		})
	}
	all.Wait()
	for range connections {
		all.Go(func() {
			conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
			if err != nil {
				panic(err)
			}
			own := conn.LocalAddr().(*net.TCPAddr).Port
			client := http.Client{Transport: &http.Transport{DialTLS: func(string, string) (net.Conn, error) { return conn, nil }}}
			for i := range 5 {
				res, err := client.Get(fmt.Sprintf("https://x/%d/%d", own, i))
				if err != nil {
					panic(err)
				}
				body, _ := io.ReadAll(res.Body)
				if !strings.HasPrefix(string(body), fmt.Sprintf("port %d\n", own)) {
					panic(string(body))
				}
			}
			conn.Close()
		})
	}
	all.Wait()
	server.Close()
}

// serve has its buffer on the goroutine's stack, which grows in the handshake that the first Read does.
func serve(c *tls.Conn) {
	_, port, _ := net.SplitHostPort(c.RemoteAddr().String())
	body := "port " + port + "\n" + strings.Repeat("z", 3000)
	buf := make([]byte, 1024)
	for {
		n, err := c.Read(buf)
		if err != nil {
			c.Close()
			return
		}
		if n > 0 {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	}
}
`

func buildGo(t testing.TB, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(goTalk), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", append(append([]string{"build"}, args...), "-o", "talk", "main.go")...)
	build.Dir = dir
	build.Env = append(os.Environ(), "GO111MODULE=off", "GOFLAGS=")
	if strings.Contains(strings.Join(args, " "), "external") {
		build.Env = append(build.Env, "CGO_ENABLED=1")
	}
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return filepath.Join(dir, "talk")
}

// goModes are the ways that Go links.
func goModes() map[string][]string {
	return map[string][]string{
		"static": nil, "pie": {"-buildmode=pie"}, "stripped": {"-ldflags=-s -w"}, "external": {"-ldflags=-linkmode=external"},
	}
}

// TestGoEndToEnd captures both ends of a Go program's own connections, in every way that Go links: each stream has the
// port that its bytes say, from the first byte to the last.
func TestGoEndToEnd(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to load programs")
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("ip: %v: %s", err, out)
	}
	for mode, args := range goModes() {
		path := buildGo(t, args...)
		for _, talk := range []string{"net-http", "stack"} {
			t.Run(mode+"/"+talk, func(t *testing.T) { goEndToEnd(t, path, talk) })
		}
	}
}

func goEndToEnd(t *testing.T, path, talk string) {
	const connections = 40
	var self unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &self); err != nil {
		t.Fatal(err)
	}
	objects, err := bpf.Load(bpf.Options{Select: bpf.Selector{Include: bpf.Rules{NetNS: []uint32{uint32(self.Ino)}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { objects.Close() })
	r := registry(t, objects, DefaultTimes())
	handle, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	file, found := target.DescribeProgram(target.NewCache(target.DefaultBudget()), target.Libraries(), path, handle)
	if !found || file.Problem != nil {
		t.Fatalf("found %v: %v", found, file.Problem)
	}
	r.Use(target.Process{PID: 1}, file)
	if s := r.List(); len(s) != 1 || s[0].Phase != Attached {
		t.Fatalf("%+v", s)
	}
	reader, err := objects.Reader()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if out, err := exec.Command(path, fmt.Sprint(connections), talk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	checkGo(t, objects, reader, connections)
}

type goStream struct {
	local, remote uint16
	sent, got     bytes.Buffer
	flags         uint8
	closed, stale bool
}

func checkGo(t *testing.T, objects *bpf.Objects, reader *bpf.Reader, connections int) {
	t.Helper()
	const tls, fresh, unbound = 2, 1, 32
	streams := map[uint64]*goStream{}
	var record bpf.Record
	open := func() bool {
		for _, s := range streams {
			if !s.closed && !s.stale {
				return true
			}
		}
		return len(streams) == 0
	}
	for quiet, deadline := 0, time.Now().Add(10*time.Second); (quiet < 30 || open()) && time.Now().Before(deadline); {
		err := reader.Read(&record)
		if errors.Is(err, bpf.ErrDrained) {
			quiet++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		quiet = 0
		e := record.Event
		if e.Kind != bpf.EventData && e.Kind != bpf.EventClose || e.Layer != tls {
			continue
		}
		s := streams[e.Stream]
		if s == nil {
			s = &goStream{}
			streams[e.Stream] = s
		}
		if bytes.HasPrefix(record.Data, []byte("GET /stale ")) {
			s.stale = true
		}
		if s.stale {
			s.local, s.remote = e.LocalPort, e.RemotePort // its own, while that connection has not quite ended; else none
			continue
		}
		s.closed = s.closed || e.Kind == bpf.EventClose
		s.flags |= e.Flags
		if s.local == 0 {
			s.local, s.remote = e.LocalPort, e.RemotePort
		}
		if e.Kind == bpf.EventData && e.Direction == 1 {
			s.sent.Write(record.Data)
		} else if e.Kind == bpf.EventData {
			s.got.Write(record.Data)
		}
		if e.Kind == bpf.EventClose { // it may come before the last bytes
			continue
		}
		if e.Flags&unbound != 0 || e.Flags&fresh == 0 || e.LocalPort != s.local || e.RemotePort != s.remote {
			t.Errorf("flags %#x, ports %d and %d of a stream of %d and %d", e.Flags, e.LocalPort, e.RemotePort, s.local, s.remote)
		}
	}
	stale := map[uint16]bool{}
	for _, s := range streams {
		if s.stale && s.local != 0 {
			stale[s.local] = true
		}
	}
	maps.DeleteFunc(streams, func(_ uint64, s *goStream) bool { return s.stale })
	for _, s := range streams {
		if stale[s.local] {
			t.Errorf("a write that sent nothing went to port %d from %d", s.remote, s.local)
		}
	}
	if len(streams) != 2*connections {
		t.Errorf("%d streams, want both ends of %d", len(streams), connections)
	}
	for _, s := range streams {
		requests, answers, port := s.sent.String(), s.got.String(), s.local
		if strings.HasPrefix(requests, "HTTP/") {
			requests, answers, port = answers, requests, s.remote
		}
		if n := strings.Count(requests, fmt.Sprintf("GET /%d/", port)); n != 5 {
			t.Errorf("%d requests of port %d, want 5: %.80q", n, port, requests)
		}
		if n := strings.Count(answers, fmt.Sprintf("port %d\n", port)); n != 5 || !strings.Contains(answers, strings.Repeat("z", 3000)) {
			t.Errorf("%d answers to port %d, want 5: %.80q", n, port, answers)
		}
		if !s.closed {
			t.Errorf("the stream of port %d does not end", port)
		}
	}
	list, err := objects.Coverage()
	// 100 ends of connections shook hands and said nothing.
	const spoken = 80 * 1000
	if err != nil || len(list) != 1 || list[0].DecodedBytes > list[0].TLSBytes || list[0].DecodedBytes < spoken {
		t.Errorf("coverage %+v, %v; want what was said decoded", list, err)
	}
	counts, err := objects.Counts()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counts {
		if c.Lost && c.Value != 0 {
			t.Errorf("lost %s %d", c.Name, c.Value)
		}
	}
}
