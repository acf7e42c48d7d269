package ship

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// CollectorName is the name in every collector's certificate, whatever address it listens on.
const CollectorName = "collector.spile"

// ClientTLS loads a node's certificate, key and CA (PEM files). Certificate and key are read again
// when the certificate's file has changed, so a renewal needs no restart.
func ClientTLS(certFile, keyFile, caFile string) (*tls.Config, error) {
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("read CA of the collector: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("read CA of the collector %s: no PEM certificate", caFile)
	}
	k := &keyPair{certFile: certFile, keyFile: keyFile}
	if _, err := k.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    pool,
		ServerName: CollectorName,
		NextProtos: []string{"h2"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return k.load()
		},
	}, nil
}

type keyPair struct {
	certFile, keyFile string

	mu      sync.Mutex
	changed time.Time
	cert    *tls.Certificate
}

// load keeps the certificate it has while a renewal is half written.
func (k *keyPair) load() (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	st, err := os.Stat(k.certFile)
	if err == nil && k.cert != nil && st.ModTime().Equal(k.changed) {
		return k.cert, nil
	}
	if err == nil {
		err = k.read()
	}
	if err != nil && k.cert == nil {
		return nil, fmt.Errorf("load node certificate: %w", err)
	}
	if err == nil {
		k.changed = st.ModTime()
	}
	return k.cert, nil
}

func (k *keyPair) read() error {
	st, err := os.Stat(k.keyFile)
	if err != nil {
		return err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o and is readable by others (chmod 0600 it, or enrol the node again)", k.keyFile, st.Mode().Perm())
	}
	cert, err := tls.LoadX509KeyPair(k.certFile, k.keyFile)
	if err != nil {
		return err
	}
	if cert.Leaf != nil && time.Now().After(cert.Leaf.NotAfter) {
		return errors.New(k.certFile + " has expired (enrol the node again)")
	}
	k.cert = &cert
	return nil
}
