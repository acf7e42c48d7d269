package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var noon = time.Unix(1_795_255_200, 0)

// clock is a time that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

func mustOpen(t *testing.T, dir string, now func() time.Time) *Authority {
	t.Helper()
	a, err := Open(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// handshake connects a client to a server and returns what each of them says.
func handshake(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		c := tls.Client(conn, client)
		err = c.Handshake()
		if err == nil {
			_, err = c.Read(make([]byte, 1)) // In TLS 1.3 a refusal comes after the client has finished.
		}
		done <- err
	}()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := tls.Server(conn, server)
	if serverErr = s.Handshake(); serverErr == nil {
		s.Write([]byte("x"))
	}
	return s.ConnectionState(), serverErr, <-done
}

func TestOpenMakesWhatIsMissingAndKeepsIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "identity")
	first := mustOpen(t, dir, time.Now)
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]bool{}
	for _, n := range names {
		st, err := n.Info()
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", n.Name(), st.Mode())
		}
		files[n.Name()] = true
	}
	for _, want := range []string{"ca.key", "ca.pem", "collector.pem", "token", "install.key"} {
		if !files[want] {
			t.Errorf("no %s", want)
		}
	}
	if len(files) != 5 {
		t.Errorf("files: %v", files)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v %v", st.Mode(), err)
	}
	if b, err := hex.DecodeString(first.Token()); err != nil || len(b) != 32 || len(first.Key()) != 32 || bytes.Equal(b, first.Key()) {
		t.Errorf("token of %d bytes, key of %d", len(b), len(first.Key()))
	}
	second := mustOpen(t, dir, time.Now)
	if first.Token() != second.Token() || !bytes.Equal(first.Key(), second.Key()) || !bytes.Equal(first.CA(), second.CA()) {
		t.Error("opened twice, two identities")
	}
	other := mustOpen(t, filepath.Join(t.TempDir(), "identity"), time.Now)
	if first.Token() == other.Token() || bytes.Equal(first.Key(), other.Key()) {
		t.Error("two installs share a secret")
	}
}

func TestTwoStartsAtOnceAgree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	var all sync.WaitGroup
	opened := make([]*Authority, 8)
	errs := make([]error, 8)
	for i := range opened {
		all.Go(func() { opened[i], errs[i] = Open(dir, time.Now) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, a := range opened {
		if a.Token() != opened[0].Token() || !bytes.Equal(a.Key(), opened[0].Key()) || !bytes.Equal(a.CA(), opened[0].CA()) {
			t.Fatal("two identities in one directory")
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestNodeComesFromTheCertificate(t *testing.T) {
	a := mustOpen(t, filepath.Join(t.TempDir(), "identity"), time.Now)
	b, err := a.Issue("node-1.example_x")
	if err != nil {
		t.Fatal(err)
	}
	client, err := b.ClientTLS()
	if err != nil {
		t.Fatal(err)
	}
	state, serverErr, clientErr := handshake(t, a.ServerTLS(), client)
	if serverErr != nil || clientErr != nil || state.Version != tls.VersionTLS13 {
		t.Fatalf("server %v, client %v, version %x", serverErr, clientErr, state.Version)
	}
	if node, err := NodeOf(state); node != "node-1.example_x" || err != nil {
		t.Errorf("node %q, %v", node, err)
	}
	block, _ := pem.Decode(b.Cert)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if leaf.IsCA || leaf.URIs[0].String() != "spiffe://spile/node/node-1.example_x" || time.Until(leaf.NotAfter) > leafLife ||
		len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("certificate: %v %v until %v", leaf.URIs, leaf.ExtKeyUsage, leaf.NotAfter)
	}
	if _, err := NodeOf(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}); !errors.Is(err, ErrPeer) {
		t.Errorf("a certificate that nobody verified: %v", err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "a b", "é", "a\n", "a*", "**", strings.Repeat("a", 129)} {
		if _, err := a.Issue(name); !errors.Is(err, ErrNodeName) {
			t.Errorf("node %q: %v", name, err)
		}
	}
}

func TestACertificateForAnyNode(t *testing.T) {
	a := mustOpen(t, filepath.Join(t.TempDir(), "identity"), time.Now)
	b, err := a.Issue(AnyNode)
	if err != nil {
		t.Fatal(err)
	}
	client, err := b.ClientTLS()
	if err != nil {
		t.Fatal(err)
	}
	state, serverErr, clientErr := handshake(t, a.ServerTLS(), client)
	if serverErr != nil || clientErr != nil {
		t.Fatalf("server %v, client %v", serverErr, clientErr)
	}
	if uri := state.PeerCertificates[0].URIs[0].String(); uri != "spiffe://spile/node/*" {
		t.Errorf("it is for %s", uri)
	}
	if node, err := NodeOf(state); node != AnyNode || err != nil {
		t.Errorf("node %q, %v", node, err)
	}
	for _, c := range []struct{ certified, said, want, why string }{
		{"n1", "", "n1", ""}, {"n1", "n1", "n1", ""}, {"n1", "n2", "", `"n2", its certificate is that of node "n1"`}, {"n1", "*", "", `"*"`},
		{AnyNode, "n1", "n1", ""}, {AnyNode, "ip-10-0-0-1.eu.internal", "ip-10-0-0-1.eu.internal", ""}, {AnyNode, "", "", "--node"},
		{AnyNode, "*", "", "node name must be"}, {AnyNode, "a b", "", "node name must be"}, {AnyNode, "a\x1b[2J", "", "node name must be"},
		{AnyNode, strings.Repeat("a", 129), "", "node name must be"}, {AnyNode, "..", "", "node name must be"},
	} {
		got, err := Speaker(c.certified, c.said)
		if got != c.want || (err == nil) != (c.why == "") || err != nil && (!strings.Contains(err.Error(), c.why) || strings.Contains(err.Error(), "\x1b")) {
			t.Errorf("certificate of %s, says %.20q: %q, %v", c.certified, c.said, got, err)
		}
	}
}

func TestStrangersAreRefused(t *testing.T) {
	a := mustOpen(t, filepath.Join(t.TempDir(), "identity"), time.Now)
	other := mustOpen(t, filepath.Join(t.TempDir(), "identity"), time.Now)
	mine, err := a.Issue("n")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Issue("n")
	if err != nil {
		t.Fatal(err)
	}
	foreign.CA = mine.CA
	serverCert := Bundle{CA: mine.CA}
	if pair, err := os.ReadFile(filepath.Join(a.dir, "collector.pem")); err != nil {
		t.Fatal(err)
	} else {
		serverCert.Cert, serverCert.Key = pair, pair
	}
	for name, c := range map[string]struct {
		bundle Bundle
		edit   func(*tls.Config)
	}{
		"certificate of another CA": {foreign, nil},
		"no certificate":            {mine, func(c *tls.Config) { c.Certificates = nil }},
		"TLS 1.2":                   {mine, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }},
		"the server's certificate":  {serverCert, nil},
	} {
		t.Run(name, func(t *testing.T) {
			conf, err := c.bundle.ClientTLS()
			if err != nil {
				t.Fatal(err)
			}
			if c.edit != nil {
				c.edit(conf)
			}
			if _, serverErr, clientErr := handshake(t, a.ServerTLS(), conf); serverErr == nil || clientErr == nil {
				t.Errorf("server %v, client %v", serverErr, clientErr)
			}
		})
	}
	conf, err := mine.ClientTLS()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, clientErr := handshake(t, other.ServerTLS(), conf); clientErr == nil {
		t.Error("an agent trusts another install's collector")
	}
}

func TestCertificatesEndAndAreRenewed(t *testing.T) {
	c := &clock{t: noon}
	dir := filepath.Join(t.TempDir(), "identity")
	a := mustOpen(t, dir, c.now)
	first, err := a.certificate()
	if err != nil {
		t.Fatal(err)
	}
	c.set(noon.Add(leafLife / 4))
	if again, _ := a.certificate(); again != first {
		t.Error("renewed too early")
	}
	c.set(noon.Add(leafLife * 3 / 4))
	renewed, err := a.certificate()
	if err != nil || renewed == first || !renewed.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Fatalf("not renewed past half of its life: %v", err)
	}
	stored, err := mustOpen(t, dir, c.now).certificate()
	if err != nil || !stored.Leaf.Equal(renewed.Leaf) {
		t.Errorf("the renewed certificate was not stored: %v", err)
	}
	old, err := a.Issue("n")
	if err != nil {
		t.Fatal(err)
	}
	c.set(noon.Add(2 * leafLife))
	conf, err := old.ClientTLS()
	if err != nil {
		t.Fatal(err)
	}
	conf.Time = c.now
	if _, serverErr, _ := handshake(t, a.ServerTLS(), conf); serverErr == nil || !strings.Contains(serverErr.Error(), "expired") {
		t.Errorf("an expired node certificate: %v", serverErr)
	}
	c.set(noon.Add(caLife + time.Hour))
	if _, err := Open(dir, c.now); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired CA: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir string) error
		want  error
		text  string
	}{
		"token others can read":  {func(d string) error { return os.Chmod(d+"/token", 0o644) }, ErrExposed, "chmod 0600"},
		"key a group can read":   {func(d string) error { return os.Chmod(d+"/ca.key", 0o640) }, ErrExposed, "ca.key"},
		"directory others enter": {func(d string) error { return os.Chmod(d, 0o755) }, ErrExposed, "chmod 0700"},
		"short token":            {func(d string) error { return os.WriteFile(d+"/token", []byte("abc"), 0o600) }, ErrDamaged, "token"},
		"short install key":      {func(d string) error { return os.WriteFile(d+"/install.key", []byte("abc"), 0o600) }, ErrDamaged, "backup"},
		"no key in ca.key":       {func(d string) error { return os.WriteFile(d+"/ca.key", []byte("abc"), 0o600) }, ErrDamaged, "ca.key"},
		"no cert in ca.pem":      {func(d string) error { return os.WriteFile(d+"/ca.pem", nil, 0o600) }, ErrDamaged, "ca.pem"},
		"no CA key":              {func(d string) error { return os.Remove(d + "/ca.key") }, ErrDamaged, "ca.key is missing"},
		"no install key":         {func(d string) error { return os.Remove(d + "/install.key") }, ErrDamaged, "install.key is missing"},
		"another CA's key": {func(d string) error {
			pem, err := newKeyPEM()
			return errors.Join(err, os.WriteFile(d+"/ca.key", pem, 0o600))
		}, ErrDamaged, "not the key of"},
		"a link": {func(d string) error {
			return errors.Join(os.Remove(d+"/token"), os.Symlink("/dev/zero", d+"/token"))
		}, nil, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "identity")
			mustOpen(t, dir, time.Now)
			if err := c.spoil(dir); err != nil {
				t.Fatal(err)
			}
			_, err := Open(dir, time.Now)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), dir) {
				t.Errorf("error %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, time.Now); err == nil {
		t.Error("a file was opened as a directory")
	}
}
