// Package identity holds the secrets of one install: who may send calls, who may ask, and the key of
// every keyed hash.
//
// Everything lives in one directory (0700) that belongs to the collector:
//
//	ca.pem ca.key            the install's own certificate authority, 10 years
//	collector.pem            certificate and key of the agents' listener, renewed when half its year is over
//	token                    32 random bytes in hex: whoever can read it may query over TCP
//	install.key              32 random bytes: the key of keyed hashes, handed to agents in Welcome
//
// A file is made once, under a temporary name and then linked in place, so that a reader sees all of
// it or nothing and two starts at once agree on one winner. A secret that others can read is refused:
// using it anyway would hide that it has leaked.
//
// Agents are named by their certificate (URI spiffe://spile/node/NAME), not by what they say. The one
// exception is asked for by its name: a certificate for spiffe://spile/node/* speaks for any node, for
// where all agents share one secret. Whoever holds it can pass as each of them. TLS is 1.3 only and always mutual. Losing the directory means enrolling every agent again and changes
// every keyed hash; nothing here is ever sent anywhere but to an authenticated agent (the key).
package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"path/filepath"
	"sync"
	"time"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 365 * 24 * time.Hour
	// backdate tolerates agents whose clock is behind the collector's.
	backdate = time.Hour

	// ServerName is in the collector's certificate whatever address it listens on, so that agents
	// verify who answers without knowing where it runs.
	ServerName = "collector.spile"
	// KeyEpoch numbers the install key; calls carry it beside their hashes.
	KeyEpoch = 1

	keyBytes = 32
)

var (
	// ErrExposed says that a secret can be read by others.
	ErrExposed = errors.New("secret is readable by others")
	// ErrDamaged says that a file does not hold what it should.
	ErrDamaged = errors.New("damaged")
	// ErrNodeName says that a node cannot be called that.
	ErrNodeName = errors.New("node name must be 1 to 128 of a-z A-Z 0-9 . _ -")
)

// Authority is an open identity directory.
type Authority struct {
	dir     string
	now     func() time.Time
	ca      *x509.Certificate
	caKey   crypto.Signer
	caPEM   []byte
	token   string
	install []byte

	mu     sync.Mutex
	server *tls.Certificate
}

// Open loads the identity in dir and makes what is missing.
func Open(dir string, now func() time.Time) (*Authority, error) {
	if err := openDir(dir); err != nil {
		return nil, err
	}
	a := &Authority{dir: dir, now: now}
	if err := a.complete(); err != nil {
		return nil, err
	}
	keyPath, tokenPath := filepath.Join(dir, "install.key"), filepath.Join(dir, "token")
	key, err := loadOrCreate(keyPath, newRawSecret)
	if err != nil {
		return nil, err
	}
	if len(key) != keyBytes {
		return nil, fmt.Errorf("read install key %s: %w: want %d bytes, have %d (restore it from a backup; a new key changes every keyed hash)",
			keyPath, ErrDamaged, keyBytes, len(key))
	}
	a.install = key
	if err := a.openCA(); err != nil {
		return nil, err
	}
	token, err := loadOrCreate(tokenPath, newHexSecret)
	if err != nil {
		return nil, err
	}
	if a.token, err = hexSecret(token, tokenPath); err != nil {
		return nil, err
	}
	if _, err := a.certificate(); err != nil {
		return nil, err
	}
	return a, nil
}

// Token is what a client of the query API shows over TCP.
func (a *Authority) Token() string { return a.token }

// Key is the install key of keyed hashes.
func (a *Authority) Key() []byte { return append([]byte(nil), a.install...) }

// CA is the certificate that agents must trust, in PEM.
func (a *Authority) CA() []byte { return append([]byte(nil), a.caPEM...) }

// complete refuses a directory that has lost a key. ca.pem is made last, so where it is, the keys have
// been; making new ones in silence would cut off every agent or change every keyed hash.
func (a *Authority) complete() error {
	if _, err := statMode(filepath.Join(a.dir, "ca.pem")); err != nil {
		return nil // A new directory, or one whose first start was cut short.
	}
	for _, name := range []string{"install.key", "ca.key"} {
		if _, err := statMode(filepath.Join(a.dir, name)); err != nil {
			return fmt.Errorf("open identity in %s: %w: %s is missing (restore it from a backup, or move the directory away to make a new identity)",
				a.dir, ErrDamaged, name)
		}
	}
	return nil
}

func (a *Authority) openCA() error {
	keyPath, certPath := filepath.Join(a.dir, "ca.key"), filepath.Join(a.dir, "ca.pem")
	keyPEM, err := loadOrCreate(keyPath, newKeyPEM)
	if err != nil {
		return err
	}
	if a.caKey, err = parseKey(keyPEM, keyPath); err != nil {
		return err
	}
	a.caPEM, err = loadOrCreate(certPath, func() ([]byte, error) { return a.selfSign() })
	if err != nil {
		return err
	}
	if a.ca, err = parseCert(a.caPEM, certPath); err != nil {
		return err
	}
	if !publicEqual(a.ca.PublicKey, a.caKey.Public()) {
		return fmt.Errorf("open CA in %s: %w: ca.key is not the key of ca.pem (restore both from one backup)", a.dir, ErrDamaged)
	}
	if a.now().After(a.ca.NotAfter) {
		return fmt.Errorf("open CA in %s: expired on %s (move the directory away to make a new identity, then enrol agents again)",
			a.dir, a.ca.NotAfter.Format(time.DateOnly))
	}
	return nil
}

func (a *Authority) selfSign() ([]byte, error) {
	tmpl, err := template("Spile CA", a.now(), caLife)
	if err != nil {
		return nil, err
	}
	tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.MaxPathLenZero = true, true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.caKey.Public(), a.caKey)
	if err != nil {
		return nil, fmt.Errorf("sign CA: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Bundle is what one agent needs, in PEM.
type Bundle struct {
	Cert, Key, CA []byte
}

// Issue makes a client certificate for a node, or for AnyNode. The private key is not kept.
func (a *Authority) Issue(node string) (Bundle, error) {
	if node != AnyNode && !nodeNameOK(node) {
		return Bundle{}, fmt.Errorf("issue certificate for node %q: %w", node, ErrNodeName)
	}
	tmpl, err := template(node, a.now(), leafLife)
	if err != nil {
		return Bundle{}, err
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	// RawPath, or * would be written as %2A.
	tmpl.URIs = []*url.URL{{Scheme: "spiffe", Host: trustDomain, Path: nodePath + node, RawPath: nodePath + node}}
	keyPEM, err := newKeyPEM()
	if err != nil {
		return Bundle{}, err
	}
	certPEM, err := a.sign(tmpl, keyPEM)
	if err != nil {
		return Bundle{}, fmt.Errorf("issue certificate for node %s: %w", node, err)
	}
	return Bundle{Cert: certPEM, Key: keyPEM, CA: a.CA()}, nil
}

func (a *Authority) sign(tmpl *x509.Certificate, keyPEM []byte) ([]byte, error) {
	key, err := parseKey(keyPEM, "new key")
	if err != nil {
		return nil, err
	}
	if tmpl.NotAfter.After(a.ca.NotAfter) {
		tmpl.NotAfter = a.ca.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.ca, key.Public(), a.caKey)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func template(name string, now time.Time, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, Organization: []string{"Spile"}},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(life),
	}, nil
}

func newKeyPEM() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func newRawSecret() ([]byte, error) {
	b := make([]byte, keyBytes)
	_, err := rand.Read(b)
	return b, err
}

func newHexSecret() ([]byte, error) {
	b, err := newRawSecret()
	return append(hex.AppendEncode(nil, b), '\n'), err
}

func hexSecret(file []byte, path string) (string, error) {
	text := string(file)
	if len(text) == 2*keyBytes+1 && text[2*keyBytes] == '\n' {
		text = text[:2*keyBytes]
	}
	if b, err := hex.DecodeString(text); err != nil || len(b) != keyBytes {
		return "", fmt.Errorf("read token %s: %w: want %d hex digits (remove the file to make a new token)", path, ErrDamaged, 2*keyBytes)
	}
	return text, nil
}

func parseKey(b []byte, path string) (crypto.Signer, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("read key %s: %w: no PEM private key", path, ErrDamaged)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w: %w", path, ErrDamaged, err)
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read key %s: %w: not an ECDSA key", path, ErrDamaged)
	}
	return signer, nil
}

func parseCert(b []byte, path string) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("read certificate %s: %w: no PEM certificate", path, ErrDamaged)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w: %w", path, ErrDamaged, err)
	}
	return cert, nil
}

func publicEqual(a, b crypto.PublicKey) bool {
	k, ok := a.(*ecdsa.PublicKey)
	return ok && k.Equal(b)
}
