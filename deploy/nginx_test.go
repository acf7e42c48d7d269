package deploy

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nginx is a real server whose access log is the oracle.
type nginx struct {
	*process
	dir string
}

// nginxEndpoints are the locations of the test server: what a client asks, the route that must come out, the answer.
// %d takes an id.
var nginxEndpoints = []struct {
	Pattern, Route string
	Status         int
}{
	{"/users/%d", "/users/{id}", 200},
	{"/users/%d/orders", "/users/{id}/orders", 200},
	{"/users/%d/orders/latest", "/users/{id}/orders/latest", 200},
	{"/api/v1/items/%d", "/api/v1/items/{id}", 200},
	{"/api/v2/items/%d", "/api/v2/items/{id}", 200},
	{"/api/v1/items/%d/reviews", "/api/v1/items/{id}/reviews", 200},
	{"/accounts/%d/close", "/accounts/{id}/close", 403},
	{"/jobs/%d/run", "/jobs/{id}/run", 202},
	{"/reports/%d/export", "/reports/{id}/export", 500},
	{"/health", "/health", 200},
	{"/catalog", "/catalog", 200},
	{"/static/app.json", "/static/app.json", 200},
}

const nginxConf = `
daemon off;
master_process on;
worker_processes 1;
pid %[1]s/pid;
error_log %[1]s/error.log warn;
user root;
events { worker_connections 2048; }
http {
	log_format oracle '$request_method $ep $status';
	access_log %[1]s/access.log oracle;
	default_type application/json;
	keepalive_requests 1000000;
	keepalive_timeout 300s;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	sendfile on;
	server {
		listen 127.0.0.1:8443 ssl http2;
		listen 127.0.0.1:8080;
		listen 127.0.0.1:8081 http2;
		server_name shop.example;
		ssl_certificate %[1]s/cert.pem;
		ssl_certificate_key %[1]s/key.pem;
		set $ep "?";
%[2]s
	}
}
`

// prepareNginx writes a server's files.
func prepareNginx(t testing.TB) *nginx {
	t.Helper()
	dir := t.TempDir()
	writeCertificate(t, dir)
	var locations strings.Builder
	for _, e := range nginxEndpoints {
		if e.Route == "/static/app.json" {
			fmt.Fprintf(&locations, "location = %s { set $ep %q; root %s; }\n", e.Pattern, e.Route, dir)
			continue
		}
		re := "^" + strings.ReplaceAll(e.Pattern, "%d", "[0-9]+") + "$"
		fmt.Fprintf(&locations, "location ~ %q { set $ep %q; return %d '{\"id\": 7, \"name\": \"anvil\"}'; }\n", re, e.Route, e.Status)
	}
	must(t, os.MkdirAll(filepath.Join(dir, "static"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "static/app.json"), bytes.Repeat([]byte(`{"a": 1}`+"\n"), 600), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "nginx.conf"), fmt.Appendf(nil, nginxConf, dir, locations.String()), 0o644))
	return &nginx{dir: dir}
}

// startNginx starts nginx with TLS and plain listeners in the test's namespace and waits until it answers.
func startNginx(t testing.TB) *nginx {
	t.Helper()
	n := prepareNginx(t)
	n.process = start(t, "nginx", "-p", n.dir, "-c", filepath.Join(n.dir, "nginx.conf"))
	eventually(t, 10*time.Second, "nginx listens", func() bool { return dials("127.0.0.1:8080") })
	return n
}

// oracle counts the access log: "METHOD route" → status → calls.
func (n *nginx) oracle(t testing.TB) map[string]map[string]uint64 {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(n.dir, "access.log"))
	must(t, err)
	out := map[string]map[string]uint64{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) != 3 || f[1] == "?" {
			t.Fatalf("access log: %q", lines.Text())
		}
		key := f[0] + " " + f[1]
		if out[key] == nil {
			out[key] = map[string]uint64{}
		}
		out[key][f[2]]++
	}
	return out
}

// targets writes a URI list for h2load that spreads over all endpoints.
func (n *nginx) targets(t testing.TB, base string) string {
	t.Helper()
	var list strings.Builder
	for i := range 600 {
		pattern := nginxEndpoints[i%len(nginxEndpoints)].Pattern
		if strings.Contains(pattern, "%d") {
			pattern = fmt.Sprintf(pattern, 1000+i*37)
		}
		fmt.Fprintln(&list, base+pattern)
	}
	file := filepath.Join(t.TempDir(), "uris")
	must(t, os.WriteFile(file, []byte(list.String()), 0o644))
	return file
}

func writeCertificate(t testing.TB, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "shop.example"}, DNSNames: []string{"shop.example", "localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
