package deploy

import (
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestSmokeFirstCall is the README's first screen: a TLS server, curl, and the call is there within a second.
func TestSmokeFirstCall(t *testing.T) {
	needsRoot(t)
	p := up(t)
	dir := t.TempDir()
	writeCertificate(t, dir)
	start(t, "openssl", "s_server", "-quiet", "-www", "-accept", "127.0.0.1:9443", "-cert", filepath.Join(dir, "cert.pem"), "-key", filepath.Join(dir, "key.pem"))
	eventually(t, 10*time.Second, "s_server answers", func() bool { return dials("127.0.0.1:9443") })
	output(t, "curl", "-sk", "--http1.1", "-u", "alice:correct-horse", "https://127.0.0.1:9443/users/42?access_token=abcdefghij0123456789", "-o", "/dev/null")
	asked := time.Now()
	eventually(t, 5*time.Second, "the call", func() bool { return len(p.calls()) > 0 })
	if took := time.Since(asked); took > time.Second {
		t.Errorf("the call showed after %s, want within a second", took)
	}
	calls := p.calls()
	c := calls[0]
	if len(calls) != 1 || c.Method != "GET" || c.Path != "/users/42" || c.Route != "/users/{id}" || c.StatusCode != 200 || c.Scheme != "https" {
		t.Errorf("calls: %+v", calls)
	}
	// s_server -www moves its bytes by a BIO inside libssl, so only curl's end is decoded; that must be said.
	if c.Source.Process != "curl" || c.Observed != "client" || c.Destination.Port != 9443 {
		t.Errorf("peers: %+v → %+v", c.Source, c.Destination)
	}
	var rules []string
	eventually(t, 5*time.Second, "a finding", func() bool {
		rules = nil
		for _, f := range p.findings() {
			rules = append(rules, f.Rule)
			if f.Scope != "loopback" || f.Severity != "low" {
				t.Errorf("a finding on loopback: %+v", f)
			}
		}
		return len(rules) > 0
	})
	if !slices.Contains(rules, "credential-in-url") {
		t.Errorf("findings: %v, want credential-in-url", rules)
	}
	if es := p.endpoints(); len(es) != 1 || es[0].Route != "/users/{id}" || es[0].Calls != 1 {
		t.Errorf("endpoints: %+v", es)
	}
	if code := p.stop(t, 15*time.Second); code != 0 {
		t.Errorf("spile up ended with %d:\n%s", code, p.log)
	}
}
