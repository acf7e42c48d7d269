package deploy

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// staticServer is a small HTTPS server for one connection at a time. It declares what it needs of OpenSSL itself, so it
// builds without headers, and serves bodies of 20,000 bytes.
const staticServer = `
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
void *TLS_server_method(void), *SSL_CTX_new(void *), *SSL_new(void *);
int SSL_CTX_use_certificate_file(void *, const char *, int), SSL_CTX_use_PrivateKey_file(void *, const char *, int);
int SSL_set_fd(void *, int), SSL_accept(void *), SSL_read(void *, void *, int), SSL_write(void *, const void *, int);
void SSL_free(void *);
static char in[65536], out[20100];
int main(int argc, char **argv) {
	void *ctx = SSL_CTX_new(TLS_server_method());
	int one = 1, l = socket(AF_INET, SOCK_STREAM, 0), n;
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[3])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	if (SSL_CTX_use_certificate_file(ctx, argv[1], 1) != 1 || SSL_CTX_use_PrivateKey_file(ctx, argv[2], 1) != 1) return 2;
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(l, (void *)&a, sizeof a) || listen(l, 16)) return 3;
	n = sprintf(out, "HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n");
	memset(out + n, 'x', 20000);
	for (;;) {
		int c = accept(l, 0, 0), got = 0, r;
		void *ssl = SSL_new(ctx);
		SSL_set_fd(ssl, c);
		if (SSL_accept(ssl) == 1)
			while (got < sizeof in - 1 && (r = SSL_read(ssl, in + got, sizeof in - 1 - got)) > 0) {
				in[got += r] = 0;
				if (got >= 4 && !memcmp(in + got - 4, "\r\n\r\n", 4)) { SSL_write(ssl, out, n + 20000); got = 0; }
			}
		SSL_free(ssl);
		close(c);
	}
}
`

// strippedServer builds staticServer with OpenSSL inside and without a symbol; "" where there is no static OpenSSL.
func strippedServer(t testing.TB) string {
	t.Helper()
	archive := strings.TrimSpace(string(output(t, "cc", "-print-file-name=libssl.a")))
	if !filepath.IsAbs(archive) {
		t.Log("libssl.a is not here (Debian: libssl-dev): the static and stripped program is left out")
		return ""
	}
	return compiled(t, "sealed", staticServer, "-static", "-s", "-lssl", "-lcrypto")
}

// heldCurl is a curl that does its transfers and then waits on a port that never answers, so its connections stay open and
// it stays in the list of processes.
func heldCurl(t testing.TB, local int, args ...string) *process {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	reached := make(chan struct{})
	go func() {
		c, err := l.Accept()
		if err == nil {
			close(reached)
			c.Read(make([]byte, 1<<16)) // the request
			c.Read(make([]byte, 1))     // until curl ends
			c.Close()
		}
	}()
	all := append([]string{"-sk", "--local-port", fmt.Sprint(local)}, args...)
	p := start(t, "curl", append(all, "--next", "-s", "http://"+l.Addr().String()+"/wait")...)
	select {
	case <-reached:
	case <-p.done:
		t.Fatalf("curl ended: %s", p.log)
	case <-time.After(30 * time.Second):
		t.Fatalf("curl did not finish its transfers: %s", p.log)
	}
	return p
}

// transfers are what a held curl does over TLS on one connection: small calls, long answers and, over HTTP/1.1, long requests.
// (nginx answers a request here without having read it, which this curl does not survive in HTTP/2.)
func transfers(version, base, upload string) []string {
	args := []string{version}
	for i := range 40 {
		args = append(args, "-o", "/dev/null", fmt.Sprintf("%s/users/%d", base, i))
	}
	args = append(args, "-o", "/dev/null", base+"/static/megabyte")
	if version == "--http1.1" {
		return append(args, "--next", "-sk", version, "-H", "Expect:", "-o", "/dev/null", "--data-binary", "@"+upload, base+"/users/7")
	}
	return append(args, "-o", "/dev/null", base+"/static/megabyte")
}

// TestSightCoverage compares what the agent says of each process's TLS with the packets: a server and two clients of a
// library that is read, and a server whose TLS cannot be read with its client.
func TestSightCoverage(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	writeCertificate(t, dir)
	upload := filepath.Join(dir, "upload")
	must(t, os.WriteFile(upload, make([]byte, 300_000), 0o644))
	command := []string{strippedServer(t), dir + "/cert.pem", dir + "/key.pem", "9475"}
	if command[0] == "" {
		command = []string{forkedGoServer(t), dir, "9475"}
	}
	wire := countPackets(t)
	p := up(t)
	server := sightNginx(t, 9470)
	sealed := start(t, command[0], command[1:]...)
	eventually(t, 5*time.Second, "the sealed server listens", func() bool { return dials("127.0.0.1:9475") })
	one := heldCurl(t, 30_471, transfers("--http1.1", "https://127.0.0.1:9470", upload)...)
	two := heldCurl(t, 30_472, transfers("--http2", "https://127.0.0.1:9470", upload)...)
	three := heldCurl(t, 30_475, "-o", "/dev/null", "https://127.0.0.1:9475/users/[1-30]")
	for _, c := range []struct {
		who     string
		process *process
		port    int
		decoded bool
		calls   uint64
	}{
		{"nginx", server, 9470, true, 84},
		{"curl over HTTP/1.1", one, 30_471, true, 42},
		{"curl over HTTP/2", two, 30_472, true, 42},
		{"a server that is not decoded", sealed, 9475, false, 0},
		{"its client", three, 30_475, true, 30},
	} {
		t.Run(c.who, func(t *testing.T) {
			want := wire.tcp(c.port)
			if want < 3000 {
				t.Fatalf("%d bytes crossed the wire: the transfers did not happen", want)
			}
			var got coverageLine
			for begun := time.Now(); !about(got.TLSBytes, want) && time.Since(begun) < 2*healthEvery; time.Sleep(200 * time.Millisecond) {
				got = p.on(t).covered(c.process.Process.Pid)
			}
			t.Logf("%d bytes on the wire, %d told, %d decoded, %d calls %s", want, got.TLSBytes, got.DecodedBytes, got.Calls, got.Reason)
			if !about(got.TLSBytes, want) || c.decoded && got.DecodedBytes != got.TLSBytes || !c.decoded && got.DecodedBytes != 0 {
				t.Errorf("%d bytes on the wire, told: %+v", want, got)
			}
			if (got.Reason == "") != c.decoded || got.UnboundBytes != 0 || got.QUICBytes != 0 || got.Calls != c.calls || got.LostCalls != 0 {
				t.Errorf("%d calls, told: %+v", c.calls, got)
			}
		})
	}
	t.Run("totals", func(t *testing.T) {
		p := p.on(t)
		before := p.count("coverage", "tls_bytes")
		one.kill()
		two.kill()
		output(t, "curl", "-sk", "--local-port", "30473", "-o", "/dev/null", "https://127.0.0.1:9470/static/megabyte")
		want := before + 2*wire.tcp(30_473) // at both ends
		eventually(t, 2*healthEvery, "processes that ended stay in the totals", func() bool { return about(p.count("coverage", "tls_bytes"), want) })
	})
}
