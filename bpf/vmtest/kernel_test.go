package vmtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

//go:embed guest.sh
var guestInit []byte

//go:embed guest-run.sh
var guestRun []byte

// wantRungs is what each kernel offers, so what doctor and agents must show there.
var wantRungs = map[string]map[string]string{
	"6.1": {"socket": "kprobe", "uprobe": "perf"},
}

// TestKernels boots each kernel of SPILE_VM_KERNELS and expects the real product to see a TLS and a plain exchange there.
func TestKernels(t *testing.T) {
	list := strings.Fields(os.Getenv("SPILE_VM_KERNELS"))
	if len(list) == 0 {
		t.Skip("boots whole kernels under emulation: run by `make vmtest`")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	for _, series := range list {
		t.Run(series, func(t *testing.T) {
			k, err := Fetch(t.Context(), series, filepath.Join(cache, "spile-kernels"))
			if err != nil {
				t.Fatal(err)
			}
			res := boot(t, k)
			t.Logf("kernel %s: %s", k.Version, res.Took.Round(time.Second))
			check(t, res, wantRungs[series])
		})
	}
}

func TestTheKernelIsOfTheSeriesAskedFor(t *testing.T) {
	for depends, want := range map[string]string{
		"linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-50-cloud-amd64\n":      "",
		"linux-image-cloud-amd64\n  Depends: linux-image-6.12.57+deb13-cloud-amd64\n": "kernel 6.12.57+deb13-cloud-amd64, not 6.1:",
		"linux-image-cloud-amd64\n  Depends: linux-image-6.12.0-1-cloud-amd64\n":      "kernel 6.12.0-1-cloud-amd64, not 6.1:",
		"linux-image-cloud-amd64\n  Depends: linux-image-5.10.0-32-cloud-amd64\n":     "kernel 5.10.0-32-cloud-amd64, not 6.1:",
		"linux-image-cloud-amd64\n": "no kernel image",
	} {
		pkg, err := imageOf("6.1", "linux-image-cloud-amd64", depends)
		if want == "" && (err != nil || pkg != "linux-image-6.1.0-50-cloud-amd64") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %q, %v; want %q", depends, pkg, err, want)
		}
	}
}

func boot(t *testing.T, k Kernel) Result {
	t.Helper()
	root := NewInitramfs()
	for _, dir := range []string{"/proc", "/sys", "/dev", "/tmp", "/run", "/data", "/www"} {
		root.Dir(dir)
	}
	for name, from := range map[string]string{"/bin/spile": "../../bin/spile", "/bin/spile-agent": "../../bin/spile-agent", "/bin/busybox": "/bin/busybox"} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatalf("%v: run `make build` and deploy/packages.sh vm first", err)
		}
		root.Add(name, data)
	}
	for _, p := range []string{"openssl", "curl"} {
		if err := root.Program(p); err != nil {
			t.Fatal(err)
		}
	}
	cert, key := certificate(t)
	root.Add("/cert.pem", cert)
	root.Add("/key.pem", key)
	root.Link("/bin/sh", "busybox")
	root.Add("/init", guestInit)
	root.Add("/guest-run.sh", guestRun)
	image := filepath.Join(t.TempDir(), "initramfs.gz")
	if err := root.Write(image); err != nil {
		t.Fatal(err)
	}
	b := Boot{Kernel: k, Initramfs: image, MemoryMiB: 1536, Limit: 9 * time.Minute}
	res, err := b.Run(context.Background())
	if errors.Is(err, ErrPanic) {
		t.Logf("%v: one more try\n%s", err, tail(res.Console))
		res, err = b.Run(context.Background())
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(res.Console))
	}
	return res
}

func check(t *testing.T, res Result, rungs map[string]string) {
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
		if json.Unmarshal([]byte(line), &c) == nil && c.Method == "GET" && c.Path == "/order.json" && c.StatusCode == 200 {
			seen[c.Scheme]++
		}
	}
	if seen["https"] != 5 || seen["http"] != 5 {
		t.Errorf("calls seen: %v, want 5 of each scheme", seen)
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
	for hook, want := range rungs {
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

func tail(s string) string { return s[max(0, len(s)-8000):] }

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
