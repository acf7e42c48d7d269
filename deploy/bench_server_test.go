package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// benchServer is a program whose cost per request is measured.
type benchServer struct {
	name  string
	exe   string // the file that has its TLS
	kind  string // of its TLS, as testdata/bench/floor calls it
	start func(t testing.TB, dir string) (pid int)
	loads []benchLoad
	first bool // measured under the governor's stages and behind proxies too
}

// benchLoad is what clients ask of a server.
type benchLoad struct {
	protocol string // "h1" or "h2"
	bytes    int    // of a reply's body
}

func (l benchLoad) String() string {
	if l.bytes >= 1<<10 {
		return fmt.Sprintf("%s %d KB", l.protocol, l.bytes>>10)
	}
	return fmt.Sprintf("%s %d B", l.protocol, l.bytes)
}

const (
	benchPort = 8443 // TLS
	plainPort = 8080 // of nginx, behind the proxies
	smallPage = 200
	largePage = 16 << 10
)

// benchServers lists what is measured. Each has files of its own that probes go to, so that no other tap on this host,
// and no other program that is tapped, has a part in the figures.
func benchServers(t testing.TB) []benchServer {
	h1 := []benchLoad{{"h1", smallPage}, {"h1", largePage}}
	libraries := privateLibraries(t)
	all := []benchServer{
		{name: "nginx", exe: libraries + "/libssl.so.3", kind: "openssl", first: true, loads: append(h1, benchLoad{"h2", smallPage}, benchLoad{"h2", largePage}),
			start: func(t testing.TB, dir string) int { return startBenchNginx(t, dir, libraries) }},
	}
	serve := benchProgram(t, "serve")
	all = append(all, benchServer{name: "go", exe: serve, kind: "go", loads: h1, start: func(t testing.TB, dir string) int {
		return start(t, serve, address(benchPort), dir+"/cert.pem", dir+"/key.pem", dir+"/pages").Process.Pid
	}})
	if node, err := exec.LookPath("node"); err == nil { // `make bench` brings it
		exe := copied(t, node, libraries+"/node")
		file := exe
		if !hasFunction(node, "SSL_read") { // Debian's own uses the system's OpenSSL
			file = libraries + "/libssl.so.3"
		}
		all = append(all, benchServer{name: "node", exe: file, kind: "openssl", loads: h1, start: func(t testing.TB, dir string) int {
			cmd := exec.Command(exe, "testdata/bench/serve.js", address(benchPort), dir+"/cert.pem", dir+"/key.pem", dir+"/pages")
			cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries)
			return begin(t, cmd).Process.Pid
		}})
	}
	return all
}

func address(port int) string { return fmt.Sprint("127.0.0.1:", port) }

// benchProgram builds a program of testdata/bench.
func benchProgram(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../bin/bench", name))
	must(t, err)
	output(t, "go", "build", "-trimpath", "-o", path, "./testdata/bench/"+name)
	return path
}

// benchFiles writes a certificate and the pages that every server has.
func benchFiles(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	writeCertificate(t, dir)
	must(t, os.Mkdir(dir+"/pages", 0o755))
	for _, n := range []int{smallPage, largePage} {
		must(t, os.WriteFile(filepath.Join(dir, "pages", strconv.Itoa(n)), []byte(jsonPage(n)), 0o644))
	}
	both, err := os.ReadFile(dir + "/cert.pem")
	must(t, err)
	key, err := os.ReadFile(dir + "/key.pem")
	must(t, err)
	must(t, os.WriteFile(dir+"/both.pem", append(both, key...), 0o600))
	return dir
}

// jsonPage is a list of things, of exactly n bytes.
func jsonPage(n int) string {
	var page strings.Builder
	page.WriteString(`[{"id": 0}`)
	for i := 1; page.Len() < n-100; i++ {
		fmt.Fprintf(&page, `, {"id": %d, "name": "anvil %d", "price": %d.50, "tags": ["iron", "heavy"]}`, i, i, i*3)
	}
	return page.String() + strings.Repeat(" ", n-1-page.Len()) + "]"
}

const benchConf = `
daemon off;
master_process on;
worker_processes 1;
worker_rlimit_nofile 8192;
pid %[1]s/pid;
error_log %[1]s/error.log warn;
user root;
events { worker_connections 4096; }
http {
	access_log %[1]s/access.log;
	default_type application/json;
	keepalive_requests 10000000;
	keepalive_timeout 300s;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
%[2]s
}
`

// startBenchNginx answers from memory. Its access log is on, as it is by default.
func startBenchNginx(t testing.TB, dir, libraries string) (worker int) {
	t.Helper()
	var s strings.Builder
	fmt.Fprintf(&s, "server {\nlisten %s ssl http2 backlog=2048; listen %s;\nssl_certificate %s/cert.pem; ssl_certificate_key %[3]s/key.pem;\n", address(benchPort), address(plainPort), dir)
	for _, n := range []int{smallPage, largePage} {
		fmt.Fprintf(&s, "location = /pages/%d { ", n)
		page, all := jsonPage(n), ""
		for i := 0; page != ""; i++ { // a word of the configuration has at most 4 KB
			piece := page[:min(len(page), 2048)]
			page = page[len(piece):]
			fmt.Fprintf(&s, "set $p%d_%d '%s'; ", n, i, piece)
			all += fmt.Sprintf("${p%d_%d}", n, i)
		}
		fmt.Fprintf(&s, "return 200 \"%s\"; }\n", all)
	}
	return nginxWorker(t, libraries, s.String()+"}")
}

func nginxWorker(t testing.TB, libraries, servers string) int {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, benchConf, dir, servers), 0o644))
	cmd := exec.Command("nginx", "-p", dir, "-c", conf)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries)
	p := begin(t, cmd)
	var workers []int
	eventually(t, 10*time.Second, "nginx has a worker", func() bool {
		select {
		case <-p.done:
			t.Fatalf("nginx ended: %s", p.log)
		default:
		}
		workers = children(t, p.Process.Pid)
		return len(workers) == 1
	})
	return workers[0]
}
