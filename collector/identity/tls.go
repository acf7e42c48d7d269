package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

const (
	trustDomain = "spile"
	nodePath    = "/node/"
	maxNodeName = 128
	// AnyNode in place of a name makes a certificate that may speak for any node.
	AnyNode = "*"
)

// ErrPeer says that a connection carries no certificate of a node of this install.
var ErrPeer = errors.New("peer has no node certificate of this install")

// ServerTLS is the agents' listener: TLS 1.3, client certificate required and verified against this
// CA alone. The certificate is renewed when half its life is over, without a restart.
func (a *Authority) ServerTLS() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.ca)
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs:  pool,
		Time:       a.now,
		NextProtos: []string{"h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return a.certificate()
		},
		// A resumed session would keep a certificate alive past its end.
		SessionTicketsDisabled: true,
	}
}

// ClientTLS is a node's side of the connection, from what Issue returned.
func (b Bundle) ClientTLS() (*tls.Config, error) {
	cert, err := tls.X509KeyPair(b.Cert, b.Key)
	if err != nil {
		return nil, fmt.Errorf("load node certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b.CA) {
		return nil, fmt.Errorf("load CA of node: %w: no PEM certificate", ErrDamaged)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: pool,
		ServerName: ServerName, NextProtos: []string{"h2"}}, nil
}

// NodeOf is the name in a verified client certificate, or AnyNode.
func NodeOf(s tls.ConnectionState) (string, error) {
	if len(s.VerifiedChains) == 0 || len(s.VerifiedChains[0]) == 0 {
		return "", fmt.Errorf("%w: nothing verified", ErrPeer)
	}
	leaf := s.VerifiedChains[0][0]
	if len(leaf.URIs) != 1 {
		return "", fmt.Errorf("%w: %d URI names", ErrPeer, len(leaf.URIs))
	}
	u := leaf.URIs[0]
	name, ok := strings.CutPrefix(u.Path, nodePath)
	if u.Scheme != "spiffe" || u.Host != trustDomain || !ok || name != AnyNode && !nodeNameOK(name) {
		return "", fmt.Errorf("%w: %s", ErrPeer, u)
	}
	return name, nil
}

// Speaker is the node that speaks, by the name in its certificate and what it says of itself ("" is nothing). A certificate of
// one node decides alone; another name beside it is a mistake of whoever set the agent up, and must not pass as either of them.
func Speaker(certified, said string) (string, error) {
	switch {
	case certified != AnyNode && said != "" && said != certified:
		return "", fmt.Errorf("the agent says it is node %q, its certificate is that of node %q: leave the name out, or make a certificate with "+
			"spile agents enroll", clip(said), certified)
	case certified != AnyNode:
		return certified, nil
	case said == "":
		return "", errors.New("the agent says no node, and its certificate may speak for any: give the agent --node NAME (SPILE_NODE)")
	case !nodeNameOK(said):
		return "", fmt.Errorf("the agent says it is node %q: %w", clip(said), ErrNodeName)
	}
	return said, nil
}

func clip(name string) string { return name[:min(len(name), maxNodeName)] }

func nodeNameOK(name string) bool {
	if name == "" || len(name) > maxNodeName || name == "." || name == ".." {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// certificate returns the server's certificate and makes a new one past half of its life. Key and
// certificate are one file, because two files cannot be replaced at once.
func (a *Authority) certificate() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	path := filepath.Join(a.dir, "collector.pem")
	if a.server == nil {
		b, err := load(path)
		switch {
		case err == nil:
			if cert, err := tls.X509KeyPair(b, b); err == nil {
				a.server = &cert
			}
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	if a.server != nil && a.fresh(a.server.Leaf) {
		return a.server, nil
	}
	pair, err := a.renew()
	if err != nil {
		return nil, fmt.Errorf("renew collector certificate: %w", err)
	}
	if err := replace(path, pair); err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pair, pair)
	if err != nil {
		return nil, fmt.Errorf("renew collector certificate: %w", err)
	}
	a.server = &cert
	return a.server, nil
}

func (a *Authority) fresh(leaf *x509.Certificate) bool {
	now := a.now()
	half := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	if now.Before(leaf.NotBefore) || now.After(half) && leaf.NotAfter.Before(a.ca.NotAfter) || now.After(leaf.NotAfter) {
		return false
	}
	return leaf.CheckSignatureFrom(a.ca) == nil && leaf.VerifyHostname(ServerName) == nil
}

func (a *Authority) renew() ([]byte, error) {
	tmpl, err := template(ServerName, a.now(), leafLife)
	if err != nil {
		return nil, err
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	tmpl.DNSNames = []string{ServerName}
	keyPEM, err := newKeyPEM()
	if err != nil {
		return nil, err
	}
	certPEM, err := a.sign(tmpl, keyPEM)
	if err != nil {
		return nil, err
	}
	return append(certPEM, keyPEM...), nil
}
