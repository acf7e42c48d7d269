package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The tests named TestSight hold what Spile says it sees, and what it says it does not see, against programs that know.

type probeLine = struct{ Library, Path, State, Reason string }

// fresh waits for an account that the agent gave after now.
func (p *product) fresh() {
	p.t.Helper()
	type dated struct{ Health struct{ Time time.Time } }
	now := time.Now()
	eventually(p.t, 3*healthEvery, "an account of now", func() bool {
		return jsonLines[dated](p.t, p.verb("agents"))[0].Health.Time.After(now)
	})
}

// inOrder lists the calls by when they began.
func (p *product) inOrder() []callLine {
	p.t.Helper()
	type dated struct {
		callLine
		Time time.Time
	}
	all := jsonLines[dated](p.t, p.verb("calls", "--since", "1h"))
	slices.SortStableFunc(all, func(a, b dated) int { return a.Time.Compare(b.Time) })
	calls := make([]callLine, len(all))
	for i, d := range all {
		calls[i] = d.callLine
	}
	return calls
}

// covered is the row of a process; the zero row where there is none.
func (p *product) covered(pid int) coverageLine {
	p.t.Helper()
	for _, c := range p.agent().Health.Coverage {
		if c.PID == pid {
			return c
		}
	}
	return coverageLine{}
}

// probes lists the rows of files whose path contains part.
func (p *product) probes(part string) []probeLine {
	p.t.Helper()
	var found []probeLine
	for _, row := range p.agent().Health.Probes {
		if strings.Contains(row.Path, part) {
			found = append(found, row)
		}
	}
	return found
}

// status is what a person reads.
func (p *product) status() string {
	p.t.Helper()
	return string(output(p.t, p.bin.spile, "status", "--data", p.data))
}

// told waits until one line of `spile status` names what as a word (a path, a pid) and then matches why, and returns it.
func (p *product) told(within time.Duration, what, why string) string {
	p.t.Helper()
	match := regexp.MustCompile("(?i)\\b" + regexp.QuoteMeta(what) + "\\b.*(" + why + ")")
	deadline := time.Now().Add(within)
	for {
		text := p.status()
		for line := range strings.Lines(text) {
			if match.MatchString(line) {
				return strings.TrimSpace(line)
			}
		}
		if time.Now().After(deadline) {
			p.t.Errorf("after %s no line of status names %q and says %q:\n%s", within, what, why, text)
			return ""
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// sightConf is a server of one port that answers everything under /users.
const sightConf = `
daemon off;
master_process off;
pid %[1]s/pid;
error_log %[1]s/error.log warn;
user root;
events { worker_connections 256; }
http {
	access_log off;
	keepalive_requests 1000000;
	keepalive_timeout 300s;
	client_max_body_size 16m;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	server {
		listen 127.0.0.1:%[3]d ssl http2;
		server_name shop.example;
		ssl_certificate %[2]s/cert.pem;
		ssl_certificate_key %[2]s/key.pem;
		location /users/ { return 200 '{"id": 7}'; }
		location /static/ { root %[2]s; }
	}
}
`

// sightNginx starts nginx as one process with one TLS port.
func sightNginx(t testing.TB, port int, env ...string) *process {
	t.Helper()
	dir := t.TempDir()
	writeCertificate(t, dir)
	must(t, os.Mkdir(filepath.Join(dir, "static"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "static/megabyte"), make([]byte, 1<<20), 0o644))
	conf := filepath.Join(dir, "nginx.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, sightConf, dir, dir, port), 0o644))
	cmd := exec.Command("nginx", "-p", dir, "-c", conf)
	cmd.Env = append(os.Environ(), env...)
	p := begin(t, cmd)
	eventually(t, 10*time.Second, "nginx listens", func() bool { return dials(fmt.Sprintf("127.0.0.1:%d", port)) })
	return p
}

// compiled builds a C program or library with what the host's compiler finds, and skips nothing: cc is needed by `make test`.
func compiled(t testing.TB, file, source string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "main.c"), []byte(source), 0o644))
	target := filepath.Join(dir, file)
	output(t, "cc", append([]string{"-O2", "-w", "-o", target, filepath.Join(dir, "main.c")}, args...)...)
	return target
}

// goBuilt builds a Go program of one file.
func goBuilt(t testing.TB, file, source string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o644))
	target := filepath.Join(dir, file)
	cmd := exec.Command("go", append(append([]string{"build", "-o", target}, args...), "main.go")...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GO111MODULE=off", "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return target
}

// loaded is the real path of a library that a program of the host loads, such as libssl of curl.
func loaded(t testing.TB, program, library string) string {
	t.Helper()
	name, err := exec.LookPath(program)
	must(t, err)
	for line := range strings.Lines(string(output(t, "ldd", name))) {
		if f := strings.Fields(line); len(f) >= 3 && strings.HasPrefix(f[0], library) && f[1] == "=>" {
			real, err := filepath.EvalSymlinks(f[2])
			must(t, err)
			return real
		}
	}
	t.Fatalf("%s does not load %s", program, library)
	return ""
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	must(t, err)
	must(t, os.MkdirAll(filepath.Dir(to), 0o755))
	must(t, os.WriteFile(to, data, 0o755))
}

// on is the product as a subtest sees it: what fails, fails there.
func (p *product) on(t testing.TB) *product {
	copied := *p
	copied.t = t
	return &copied
}

// brief is a call in a line of an error.
func brief(calls ...callLine) string {
	var lines []string
	for _, c := range calls {
		lines = append(lines, fmt.Sprintf("%s %d %s, %s %s:%d → %s %s:%d %v", c.Path, c.StatusCode, c.Observed, c.Source.Process, c.Source.Address, c.Source.Port,
			c.Destination.Process, c.Destination.Address, c.Destination.Port, c.Coverage))
	}
	return strings.Join(lines, "; ")
}
