package deploy

import (
	"maps"
	"strconv"
	"strings"
	"testing"
)

const loadCalls = 20_000

// TestSmokeLoad drives nginx with h2load over 16 connections, as fast as leaves two processors some room, and holds the inventory against nginx's own access log:
// every call once, right route, method and status, none lost, although client and server are both on this host.
func TestSmokeLoad(t *testing.T) {
	needsRoot(t)
	for _, c := range []struct {
		name, base string
		args       []string
	}{
		{"https-h1", "https://127.0.0.1:8443", []string{"--h1"}},
		{"https-h2", "https://127.0.0.1:8443", []string{"-m", "4"}},
		{"http-h1", "http://127.0.0.1:8080", []string{"--h1"}},
		{"http-h2c", "http://127.0.0.1:8081", []string{"-m", "4"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := startNginx(t)
			p := up(t)
			args := append([]string{"-n", strconv.Itoa(loadCalls), "-c", "16", "--rps", "250", "-i", server.targets(t, c.base)}, c.args...)
			report := output(t, "h2load", args...)
			if !strings.Contains(string(report), strconv.Itoa(loadCalls)+" done") {
				t.Fatalf("h2load: %s", report)
			}
			seen := p.settled(loadCalls)
			agent := p.agent()
			var lost uint64
			for _, n := range agent.Health.Counts {
				if n.Stage == "flow" && n.Name == "lost_server" {
					lost += n.Value
				}
			}
			if seen+lost != loadCalls {
				t.Errorf("seen %d + lost %d != %d", seen, lost, loadCalls)
			}
			if lost != 0 {
				t.Errorf("%d calls lost: %v", lost, agent.Health.Counts)
			}
			compare(t, server.oracle(t), p.endpoints())
			both := 0
			for _, call := range p.calls() {
				if call.Observed == "both" {
					both++
				}
			}
			if both < loadCalls*99/100 {
				t.Errorf("%d of %d calls were joined from both ends", both, loadCalls)
			}
			if code := p.stop(t, 15e9); code != 0 {
				t.Errorf("spile up ended with %d:\n%s", code, p.log)
			}
		})
	}
}

// compare holds the inventory against the oracle, status by status.
func compare(t testing.TB, oracle map[string]map[string]uint64, endpoints []endpointLine) {
	t.Helper()
	got := map[string]map[string]uint64{}
	for _, e := range endpoints {
		got[e.Method+" "+e.Route] = e.Statuses
	}
	for key, want := range oracle {
		if !maps.Equal(got[key], want) {
			t.Errorf("%s: statuses %v, the access log says %v", key, got[key], want)
		}
	}
	for key := range got {
		if oracle[key] == nil {
			t.Errorf("%s: in the inventory but not in the access log", key)
		}
	}
}
