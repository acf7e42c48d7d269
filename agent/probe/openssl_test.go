package probe

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/bpf"
)

// TestOpenSSLEndToEnd lets the Watcher find a real server and clients, and counts the calls of the library.
func TestOpenSSLEndToEnd(t *testing.T) {
	for _, multi := range []bool{true, false} {
		t.Run(fmt.Sprintf("multi=%v", multi), func(t *testing.T) { openSSL(t, multi) })
	}
}

func openSSL(t *testing.T, multi bool) {
	programs := newCounting(t, multi)
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Skipf("ip: %v: %s", err, out)
	}
	dir := t.TempDir()
	path := library(t, filepath.Join(dir, "lib"))
	shell := func(script string) *exec.Cmd {
		c := exec.Command("sh", "-c", script)
		c.Dir = dir
		c.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Dir(path))
		return c
	}
	if out, err := shell("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out crt -subj /CN=spile -days 1").CombinedOutput(); err != nil {
		t.Skipf("openssl: %v: %s", err, out)
	}
	server := shell("exec openssl s_server -accept 127.0.0.1:4433 -key key -cert crt -www -quiet")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	eventually(t, "the server", func() bool {
		c, err := net.DialTimeout("tcp", "127.0.0.1:4433", time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})

	times := DefaultTimes()
	times.Grace = time.Hour
	r := registry(t, programs, times)
	w := watched(t, r, 50*time.Millisecond)
	if s := one(t, r); s.Path != path || s.Phase != Attached || s.Processes != 1 {
		t.Fatalf("%+v", s)
	}
	const clients = 5
	for range clients {
		out, err := shell("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | openssl s_client -connect 127.0.0.1:4433 -quiet 2>/dev/null").Output()
		if err != nil && len(out) == 0 {
			t.Fatalf("client: %v", err)
		}
		if !strings.Contains(string(out), "200 ok") {
			t.Fatalf("the client got %q", out)
		}
	}
	// openssl shakes hands inside SSL_read and SSL_write; Python asks for it, and uses the _ex functions.
	python := `import socket, ssl
context = ssl._create_unverified_context()
for _ in range(5):
    c = context.wrap_socket(socket.create_connection(("127.0.0.1", 4433)))
    c.sendall(b"GET / HTTP/1.0\r\n\r\n")
    while c.recv(4096): pass
    c.close()
`
	if out, err := shell("exec /usr/bin/python3 -c '" + python + "'").CombinedOutput(); err != nil {
		t.Fatalf("python: %v: %s", err, out)
	}
	for _, program := range []string{
		"ssl_read_enter", "ssl_read_exit", "ssl_write_enter", "ssl_write_exit", "ssl_read_ex_enter", "ssl_read_ex_exit",
		"ssl_write_ex_enter", "ssl_write_ex_exit", "ssl_handshake_enter", "ssl_handshake_exit", freed,
	} {
		if n := programs.hits(t, program); n < clients {
			t.Errorf("%s ran %d times in %d exchanges", program, n, clients)
		}
	}
	if in, out := programs.hits(t, "ssl_write_enter"), programs.hits(t, "ssl_write_exit"); in != out {
		t.Errorf("SSL_write was entered %d times and left %d times", in, out)
	}
	w.Exec(uint32(server.Process.Pid), bpf.FileID{}) // an event about what is known already changes nothing
	server.Process.Kill()
	server.Wait()
	eventually(t, "the end of the server", func() bool { s := one(t, r); return s.Phase == Draining && s.Processes == 0 })
}
