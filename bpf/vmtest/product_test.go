package vmtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

const serveAddress = "SPILE_VM_SERVE"

// TestServe is a Go program with TLS of its own, in the guest: curl's end is OpenSSL's, this one is crypto/tls.
func TestServe(t *testing.T) {
	address := os.Getenv(serveAddress)
	if address == "" {
		t.Skip("the guest's server")
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"go":true}`) })
	t.Fatal(http.ListenAndServeTLS(address, "/cert.pem", "/key.pem", handler))
}

func productImage(t *testing.T) string {
	t.Helper()
	root := rootfs(t, guestRun)
	add(t, root, "/bin/spile", "../../bin/spile")
	add(t, root, "/bin/spile-agent", "../../bin/spile-agent")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	add(t, root, "/bin/vmtest.test", self)
	cert, key := certificate(t)
	root.Add("/cert.pem", cert)
	root.Add("/key.pem", key)
	return pack(t, root)
}

// exchanges are the calls of guest-run.sh, five of each, all with both ends in the guest. openssl's server reads through BIO_f_ssl,
// which no probe watches, so curl's end is what is seen of it.
var exchanges = map[string]string{"https /order.json": "client", "http /order.json": "both", "https /go.json": "both"}

func checkProduct(t *testing.T, res Result, h hooks) {
	t.Helper()
	if res.RC != 0 {
		t.Errorf("spile up ended with status %d", res.RC)
	}
	type call struct {
		Scheme, Method, Path string
		StatusCode           int `json:"status_code"`
		Observed             string
	}
	seen := map[string]int{}
	for _, line := range section(res.Console, "calls") {
		var c call
		if json.Unmarshal([]byte(line), &c) == nil && c.Method == "GET" && c.StatusCode == 200 {
			name := c.Scheme + " " + c.Path
			seen[name]++
			if want := exchanges[name]; c.Observed != want && c.Observed != "both" {
				t.Errorf("%s was seen by %q, want %q", name, c.Observed, want)
			}
		}
	}
	for name := range exchanges {
		if seen[name] != 5 {
			t.Errorf("%s: %d calls seen, want 5", name, seen[name])
		}
	}
	var agent struct {
		Health struct{ Rungs map[string]string }
	}
	for _, line := range section(res.Console, "agents") {
		if strings.HasPrefix(line, "{") {
			if err := json.Unmarshal([]byte(line), &agent); err != nil {
				t.Errorf("agents: %v", err)
			}
		}
	}
	for hook, want := range map[string]string{"socket": h.sockets[0], "uprobe": h.uprobes[0]} {
		if got := agent.Health.Rungs[hook]; got != want {
			t.Errorf("%s hook uses rung %q, want %q", hook, got, want)
		}
	}
	if t.Failed() {
		t.Log(tail(res.Console))
	}
}

// section returns the lines that follow "--- name" on the console.
func section(console, name string) []string {
	_, rest, _ := strings.Cut(console, "--- "+name+"\n")
	part, _, _ := strings.Cut(rest, "\n--- ")
	return strings.Split(part, "\n")
}

func certificate(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}
