package deploy

import (
	"crypto/tls"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/ship"
	"github.com/spile/spile/collector/identity"
	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestWireRefusesWhoIsNotOfThisInstall(t *testing.T) {
	w := newWire(t)
	other, err := identity.Open(t.TempDir()+"/identity", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Issue("node-1")
	if err != nil {
		t.Fatal(err)
	}
	foreign.CA = w.id.CA()
	foreignTLS, err := foreign.ClientTLS()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		conf func(*ship.Config)
		want string
	}{
		"certificate of another install": {func(c *ship.Config) { c.TLS = foreignTLS }, "tls:"},
		"no certificate": {func(c *ship.Config) {
			c.TLS = c.TLS.Clone()
			c.TLS.Certificates = nil
		}, "certificate required"},
		"collector of another install": {func(c *ship.Config) {
			b := foreign
			b.CA = other.CA()
			c.TLS, _ = b.ClientTLS()
		}, "unknown authority"},
		"TLS 1.2": {func(c *ship.Config) {
			c.TLS = c.TLS.Clone()
			c.TLS.MinVersion, c.TLS.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		}, "tls:"},
		"nobody listens": {func(c *ship.Config) { c.Address = "127.0.0.1:1" }, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := w.config("node-1", t.TempDir())
			lines := make(chan error, 100)
			cfg.Notice = func(err error) { lines <- err }
			c.conf(&cfg)
			s := startShip(t, cfg)
			s.Add(madeCall(1))
			select {
			case err := <-lines:
				text := err.Error()
				if !strings.Contains(text, c.want) || !strings.Contains(text, cfg.Address) || !strings.Contains(text, "spool") || strings.Contains(text, "\n") {
					t.Errorf("the error line is %q, want the address, %q and what becomes of calls", text, c.want)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("no error line")
			}
			s.kill()
			if c := s.Counts(); c.Spooled != 1 || c.Receipted != 0 {
				t.Errorf("%+v", c)
			}
		})
	}
	if n := len(w.server.Agents()); n != 0 {
		t.Errorf("%d agents were let in", n)
	}
}

func TestWireFilesOfACertificateAreReadAgain(t *testing.T) {
	w := newWire(t)
	dir := t.TempDir()
	write := func(node string, at time.Time) {
		b, err := w.id.Issue(node)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{"cert.pem": b.Cert, "key.pem": b.Key, "ca.pem": b.CA} {
			if err := os.WriteFile(dir+"/"+name, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(dir+"/cert.pem", at, at); err != nil {
			t.Fatal(err)
		}
	}
	write("before", time.Unix(1e9, 0))
	conf, err := ship.ClientTLS(dir+"/cert.pem", dir+"/key.pem", dir+"/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	spool := t.TempDir()
	for i, node := range []string{"before", "after"} {
		write(node, time.Unix(1e9+int64(i), 0))
		cfg := w.config("unused", spool)
		cfg.TLS, cfg.Node = conf, "" // the certificate says which node
		s := startShip(t, cfg)
		s.Add(madeCall(i))
		if err := s.Drain(within(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
		s.kill()
	}
	agents := w.server.Agents()
	if len(agents) != 2 || agents[0].Node != "after" || agents[1].Node != "before" || agents[0].Calls != 1 {
		t.Errorf("agents: %v", agents)
	}
	if err := os.Chmod(dir+"/key.pem", 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ship.ClientTLS(dir+"/cert.pem", dir+"/key.pem", dir+"/ca.pem"); err == nil || !strings.Contains(err.Error(), "readable by others") {
		t.Errorf("key of mode 0644: %v", err)
	}
}

func TestWireShowsAgentsAndTheirClocks(t *testing.T) {
	w := newWire(t)
	cfg := w.config("node-1", t.TempDir())
	cfg.HealthEvery = 50 * time.Millisecond
	cfg.Health = func() *v1.Health { return &v1.Health{Rungs: map[string]string{"socket": "tp_btf"}} }
	s := startShip(t, cfg)
	old := madeCall(1)
	old.Time = timestamppb.New(time.Now().Add(-60 * 24 * time.Hour))
	s.Add(old)
	s.Add(madeCall(2))
	if err := s.Drain(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	c := s.Counts()
	mustBalance(t, c)
	if c.Rejected != 1 || c.Receipted != 1 {
		t.Errorf("a call of 60 days ago and one of now: %+v", c)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		a := w.server.Agents()
		if len(a) == 1 && a[0].Connected && a[0].Calls == 1 && a[0].Refused == 1 && a[0].Health.GetRungs()["socket"] == "tp_btf" &&
			reported(a[0].Health, "receipted") == 1 {
			if a[0].SkewSeconds < -2 || a[0].SkewSeconds > 2 {
				t.Errorf("skew %v s between two programs with one clock", a[0].SkewSeconds)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("agents: %v", a)
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.kill()
	deadline = time.Now().Add(10 * time.Second)
	for w.server.Agents()[0].Connected {
		if time.Now().After(deadline) {
			t.Fatal("an agent that is gone shows as connected")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func reported(h *v1.Health, name string) uint64 {
	for _, c := range h.GetCounts() {
		if c.Name == name {
			return c.Value
		}
	}
	return 0
}
