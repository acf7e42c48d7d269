package deploy

import (
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// TestNoLossAt5000 asks nginx 5,000 times a second over TLS, and none of the calls may be lost. Whether a machine carries
// that beside the load generator shows in the rate that this one reached.
func TestNoLossAt5000(t *testing.T) {
	needsRoot(t)
	const perSecond, conns = 5000, 20
	seconds := 4
	if wholeMatrix() {
		seconds = 15
	}
	server := startNginx(t)
	// The load generator is not what is measured: its own end is not read.
	p := up(t, "--target", "netns=self", "--target", "!exe=*/h2load")
	output(t, "curl", "-sk", "https://127.0.0.1:8443/health", "-o", filepath.Join(t.TempDir(), "warm"))
	p.settled(1)
	sent := perSecond * seconds
	report := string(output(t, "h2load", "--h1", "-n", strconv.Itoa(sent), "-c", strconv.Itoa(conns), "--rps", strconv.Itoa(perSecond/conns),
		"-i", server.targets(t, "https://127.0.0.1:8443")))
	took := regexp.MustCompile(`finished in ([0-9.]+m?s), ([0-9.]+) req/s`).FindStringSubmatch(report)
	if took == nil {
		t.Fatalf("h2load: %s", report)
	}
	rate, err := strconv.ParseFloat(took[2], 64)
	must(t, err)
	seen, lost := p.settled(uint64(sent+1)), p.count("flow", "lost_server")
	t.Logf("%d requests in %s, %.0f/s: %d seen, %d lost", sent, took[1], rate, seen-1, lost)
	if seen+lost != uint64(sent+1) {
		t.Errorf("seen %d + lost %d != sent %d", seen, lost, sent+1)
	}
	if rate < perSecond*95/100 {
		t.Skipf("the load generator reached %.0f requests/s of %d: this machine does not carry them", rate, perSecond)
	}
	if lost > 0 {
		t.Errorf("%d of %d calls were lost at %.0f requests/s: %v", lost, sent, rate, p.agent().Health.Counts)
	}
}
