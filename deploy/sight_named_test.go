package deploy

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// named is how soon a process that is not decoded must stand in `spile status` with its reason.
const named = 10 * time.Second

// goServer serves HTTPS by hand over a connection of the package that its %s names, so that nothing else of TLS is linked.
const goServer = `package main

import (
	"bufio"
	"net"
	"os"

	"%s"
)

func main() {
	cert, err := tls.LoadX509KeyPair(os.Args[1]+"/cert.pem", os.Args[1]+"/key.pem")
	if err != nil {
		panic(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Args[2])
	if err != nil {
		panic(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		go serve(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}))
	}
}

func serve(c net.Conn) {
	defer c.Close()
	for r := bufio.NewReader(c); ; {
		line := ""
		for line != "\r\n" {
			var err error
			if line, err = r.ReadString('\n'); err != nil {
				return
			}
		}
		c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	}
}
`

// forkedGoServer is goServer over a copy of crypto/tls under another name, as programs carry that imitate browsers or
// speak what the standard library does not. The copy is laid over the standard library, whose internals it needs.
func forkedGoServer(t testing.TB) string {
	t.Helper()
	root := strings.TrimSpace(string(output(t, "go", "env", "GOROOT")))
	files, err := filepath.Glob(filepath.Join(root, "src/crypto/tls/*.go"))
	must(t, err)
	overlay := map[string]map[string]string{"Replace": {}}
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			overlay["Replace"][filepath.Join(root, "src/crypto/tls/fork", filepath.Base(f))] = f
		}
	}
	data, err := json.Marshal(overlay)
	must(t, err)
	name := filepath.Join(t.TempDir(), "overlay.json")
	must(t, os.WriteFile(name, data, 0o644))
	source := fmt.Sprintf(goServer, "crypto/tls/fork")
	return goBuilt(t, "forked", source, "-overlay", name)
}

// withoutSections copies an ELF program without its table of sections, as packers leave it.
func withoutSections(t testing.TB, program string) string {
	t.Helper()
	data, err := os.ReadFile(program)
	must(t, err)
	binary.LittleEndian.PutUint64(data[0x28:], 0) // e_shoff
	binary.LittleEndian.PutUint32(data[0x3c:], 0) // e_shnum and e_shstrndx
	to := filepath.Join(t.TempDir(), "packed")
	must(t, os.WriteFile(to, data, 0o755))
	return to
}

// TestSightNamed starts servers whose TLS cannot be read, calls each, and finds the process in `spile status` with the
// reason of its own.
func TestSightNamed(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	writeCertificate(t, dir)
	cert, key := dir+"/cert.pem", dir+"/key.pem"
	type server struct {
		name, why string
		command   []string
		pid       int
		asked     time.Time
	}
	servers := []*server{
		{name: "a BIO inside the library", why: `BIO`, command: []string{"openssl", "s_server", "-quiet", "-www", "-cert", cert, "-key", key, "-accept"}},
		{name: "Go with a copy of crypto/tls", why: `\bGo\b`, command: []string{forkedGoServer(t), dir}},
	}
	if sealed := strippedServer(t); sealed != "" {
		servers = append(servers,
			&server{name: "static and stripped", why: `(static|linked into).*(strip|symbol)`, command: []string{sealed, cert, key}},
			&server{name: "without sections", why: `static|linked into|section|packed`, command: []string{withoutSections(t, sealed), cert, key}})
	}
	p := up(t)
	for i, s := range servers {
		port := fmt.Sprint(9480 + i)
		process := start(t, s.command[0], append(s.command[1:], port)...)
		s.pid = process.Process.Pid
		eventually(t, 10*time.Second, s.name+" listens", func() bool { return dials("127.0.0.1:" + port) })
		output(t, "curl", "-sk", "--http1.1", "-o", "/dev/null", fmt.Sprintf("https://127.0.0.1:%s/users/[1-20]", port))
		s.asked = time.Now()
	}
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			p := p.on(t)
			line := p.told(named-time.Since(s.asked), fmt.Sprint(s.pid), s.why)
			t.Logf("after %s: %s", time.Since(s.asked).Round(100*time.Millisecond), line)
			row := p.covered(s.pid)
			if row.TLSBytes == 0 || row.DecodedBytes != 0 || row.Calls != 0 || strings.Contains(row.Reason, "\n") {
				t.Errorf("coverage: %+v", row)
			}
		})
	}
	for _, c := range p.calls() {
		if c.Observed != "client" || c.Source.Process != "curl" {
			t.Errorf("a call was seen elsewhere than at curl: %s", brief(c))
		}
	}
	if got := len(p.calls()); got != 20*len(servers) {
		t.Errorf("%d calls were seen at curl, want %d", got, 20*len(servers))
	}
}
