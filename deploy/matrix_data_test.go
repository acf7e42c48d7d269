package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// trap is HTTP inside of what is not HTTP: a value that a database keeps, and that must not become a call.
const trap = "GET /trap/1 HTTP/1.1\r\nHost: trap.example\r\n\r\n"

// redis talks RESP over TLS.
func (m *matrix) redis(t *testing.T) {
	m.port++
	start(t, "redis-server", "--port", "0", "--tls-port", strconv.Itoa(m.port), "--bind", "127.0.0.1", "--dir", m.dir, "--save", "",
		"--tls-cert-file", m.dir+"/cert.pem", "--tls-key-file", m.dir+"/key.pem", "--tls-ca-cert-file", m.dir+"/cert.pem", "--tls-auth-clients", "no")
	eventually(t, 10*time.Second, "redis listens", func() bool { return listens(t, m.port) })
	m.muted(t, executable(t, "redis-server"), "redis-cli", func() {
		cmd := exec.Command("redis-cli", "--tls", "--insecure", "-p", strconv.Itoa(m.port))
		cmd.Stdin = strings.NewReader(strings.Repeat(fmt.Sprintf("SET key %q\nGET key\n", trap), 50))
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Count(string(out), "trap.example") != 50 {
			t.Fatalf("redis-cli: %v: %.500s", err, out)
		}
	})
}

// executable is the name of the file that runs as a command: Debian's redis-server is a link.
func executable(t *testing.T, command string) string {
	t.Helper()
	path, err := exec.LookPath(command)
	must(t, err)
	path, err = filepath.EvalSymlinks(path)
	must(t, err)
	return filepath.Base(path)
}

// postgres asks for TLS in a message of its own protocol, then talks that protocol over TLS. It refuses to run as root.
func (m *matrix) postgres(t *testing.T) {
	owner, err := user.Lookup("postgres")
	must(t, err)
	uid, err := strconv.Atoi(owner.Uid)
	must(t, err)
	gid, err := strconv.Atoi(owner.Gid)
	must(t, err)
	dir := openDir(t)
	must(t, os.Chown(dir, uid, gid))
	versions, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(versions) == 0 {
		t.Fatal("postgresql is not installed")
	}
	bin := versions[len(versions)-1]
	asOwner := []string{"--reuid", owner.Uid, "--regid", owner.Gid, "--clear-groups", "--"}
	output(t, "setpriv", append(asOwner, bin+"/initdb", "-D", dir+"/db", "-A", "trust", "-U", "postgres", "--no-sync")...)
	writeCertificate(t, dir)
	must(t, os.Chown(dir+"/key.pem", uid, gid))
	m.port++
	settings := []string{"ssl=on", "ssl_cert_file=" + dir + "/cert.pem", "ssl_key_file=" + dir + "/key.pem", "listen_addresses=127.0.0.1",
		"port=" + strconv.Itoa(m.port), "unix_socket_directories=" + dir, "fsync=off"}
	args := append(asOwner, bin+"/postgres", "-D", dir+"/db")
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	server := start(t, "setpriv", args...)
	psql := func(statements string) ([]byte, error) {
		cmd := exec.Command("psql", "-qAt", "-d", fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=require", m.port))
		cmd.Stdin = strings.NewReader(statements)
		return cmd.CombinedOutput()
	}
	eventually(t, 15*time.Second, "postgres answers", func() bool { _, err := psql("select 1"); return err == nil })
	m.muted(t, "postgres", "psql", func() {
		out, err := psql(strings.Repeat(fmt.Sprintf("select '%s';\n", trap), 50))
		if err != nil || strings.Count(string(out), "trap.example") != 50 {
			t.Fatalf("psql: %v: %.500s", err, out)
		}
	})
	server.stop(t, 10*time.Second)
}

// muted runs talk between two programs that is not HTTP: both ends are decoded and then left alone, no call comes of it,
// and nobody complains.
func (m *matrix) muted(t *testing.T, server, client string, talk func()) {
	t.Helper()
	m.rows++
	const rounds = 5
	before := m.count("flow", "muted")
	for range rounds {
		talk()
	}
	eventually(t, 2*healthEvery, "both ends of each connection are muted", func() bool { return m.count("flow", "muted") >= before+2*rounds })
	for _, process := range []string{server, client} {
		if calls := jsonLines[matrixCall](t, m.verb("calls", "--since", "1h", "--process", process)); len(calls) > 0 {
			t.Errorf("%s does not speak HTTP, but: %s, for example %s", process, summary(calls), calls[0])
		}
	}
	var sum coverageLine
	eventually(t, 3*healthEvery, "the account of "+server, func() bool {
		sum = coverageLine{}
		for _, c := range m.agent().Health.Coverage {
			if c.Process != server {
				continue
			}
			sum.TLSBytes += c.TLSBytes
			sum.DecodedBytes += c.DecodedBytes
			if c.Reason != "" {
				sum.Reason = c.Reason
			}
		}
		return sum.TLSBytes > 0
	})
	if sum.DecodedBytes < sum.TLSBytes*99/100 || sum.DecodedBytes > sum.TLSBytes || sum.Reason != "" {
		t.Errorf("%s: %d of %d TLS bytes are decoded, reason %q; want all", server, sum.DecodedBytes, sum.TLSBytes, sum.Reason)
	}
	if status := output(t, m.bin.spile, "status", "--data", m.data); strings.Contains(string(status), server) || strings.Contains(string(status), client) {
		t.Errorf("status complains:\n%s", status)
	}
	t.Logf("%s and %s: %d streams muted, no call, %d of %d TLS bytes decoded", server, client, m.count("flow", "muted")-before, sum.DecodedBytes, sum.TLSBytes)
}
