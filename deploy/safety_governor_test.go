package deploy

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// governorLine is what the agent tells of its own cost.
type governorLine struct {
	Stage, Reason    string
	AgentCores       float64 `json:"agent_cores"`
	ProbeCores       float64 `json:"probe_cores"`
	AgentBudgetCores float64 `json:"agent_budget_cores"`
}

func (p *product) governor() governorLine {
	p.t.Helper()
	var line struct {
		Health struct{ Governor governorLine }
	}
	if err := json.Unmarshal(p.verb("agents"), &line); err != nil {
		p.t.Fatal(err)
	}
	return line.Health.Governor
}

// climb follows the governor until it tells the last of the stages, and returns those that it told on the way. at is called
// once in each.
func (p *product) climb(within time.Duration, last string, at func(stage string)) (seen []string) {
	p.t.Helper()
	eventually(p.t, within, "stage "+last, func() bool {
		g := p.governor()
		if g.Stage != "" && !slices.Contains(seen, g.Stage) {
			seen = append(seen, g.Stage)
			p.t.Logf("%s: agent %.3f cores, probes %.3f: %s", g.Stage, g.AgentCores, g.ProbeCores, g.Reason)
			at(g.Stage)
		}
		return g.Stage == last
	})
	return seen
}

// TestSafetyGovernor gives the agent less than a load needs. It takes in less, stage by stage, the calls go on, status and
// metrics say so, and when the load is over everything is taken in again.
func TestSafetyGovernor(t *testing.T) {
	if !sized(false, true) {
		t.Skip("takes a minute of calm and load: run by `make soak`; TestStagesOfTheGovernor goes through the stages on a clock of its own")
	}
	needsRoot(t)
	t.Setenv("SPILE_CPU_BUDGET", "0.02")
	server := startOwnNginx(t)
	p := up(t)
	const perSecond = 1200
	load := steady(t, server.targets(t, "https://127.0.0.1:8443"), 60*perSecond, perSecond, "--h1")
	before := uint64(0)
	stages := p.climb(60*time.Second, "sampled", func(stage string) {
		now := p.total()
		if now <= before && stage != "full" {
			t.Errorf("no calls came before stage %s", stage)
		}
		before = now
	})
	if want := []string{"full", "no_bodies", "no_responses", "sampled"}; !slices.Equal(stages, want) {
		t.Errorf("stages %v, want %v", stages, want)
	}
	if line := p.told(10*time.Second, "degraded", "sampled.*--cpu-budget"); !strings.Contains(line, "one connection in") {
		t.Errorf("status says %s", line)
	}
	eventually(t, 30*time.Second, "connections that are not looked at are counted", func() bool {
		return p.count("kernel", "sampled_heads") > 0 && strings.Contains(p.status(), "were not looked at")
	})
	if text := metrics(t); !strings.Contains(text, "spile_agent_governor_stage{node=") || !strings.Contains(text, "} 3\n") ||
		!strings.Contains(text, `reason="sampled"`) || !strings.Contains(text, "spile_probe_hits_total{") {
		t.Errorf("metrics:\n%s", text)
	}
	shed := 0
	for _, c := range p.calls() {
		if slices.Contains(c.Coverage, "response_shed") {
			shed++
			if c.StatusCode != 0 || c.Route == "" {
				t.Fatalf("%+v", c)
			}
		}
	}
	if shed == 0 {
		t.Error("no call without its response was shown")
	}
	if lost := p.count("flow", "lost_shed"); lost > 0 {
		t.Errorf("%d calls could not be told from others", lost)
	}
	load.kill()
	if sized(true, false) {
		return
	}
	stages = p.climb(20*time.Minute, "full", func(string) {})
	if want := []string{"sampled", "no_responses", "no_bodies", "full"}; !slices.Equal(stages, want) {
		t.Errorf("left by stages %v, want %v", stages, want)
	}
	if text := p.status(); strings.Contains(text, "degraded") {
		t.Errorf("status still says:\n%s", text)
	}
}

// TestSafetyGovernorDetaches lets probes cost nothing. The file that is hit is let alone; what needs no probe is seen on.
func TestSafetyGovernorDetaches(t *testing.T) {
	needsRoot(t)
	t.Setenv("SPILE_PROBE_BUDGET", "0.0005")
	server := startOwnNginx(t)
	p := up(t)
	load := steady(t, server.targets(t, "https://127.0.0.1:8443"), 40*400, 400, "--h1")
	p.climb(40*time.Second, "detached", func(string) {})
	p.told(10*time.Second, "degraded", "detached.*--probe-budget")
	p.told(10*time.Second, "probes", "suspended")
	if !slices.ContainsFunc(p.agent().Health.Probes, func(s struct{ Library, Path, State, Reason string }) bool {
		return s.State == "suspended" && strings.Contains(s.Reason, "--probe-budget")
	}) {
		t.Errorf("probes %+v", p.agent().Health.Probes)
	}
	before := p.total()
	output(t, "curl", "-s", "-o", "/dev/null", "http://127.0.0.1:8080/health")
	eventually(t, 10*time.Second, "a call that needs no probe is seen", func() bool { return p.total() > before })
	if sized(true, false) {
		load.kill()
		return
	}
	flawless(t, load, 40*400)
	p.climb(5*time.Minute, "full", func(string) {})
	before = p.total()
	output(t, "curl", "-sk", "-o", "/dev/null", "https://127.0.0.1:8443/health")
	eventually(t, 10*time.Second, "calls over TLS are seen again", func() bool { return p.total() > before })
}

// metrics is the collector's page of them.
func metrics(t testing.TB) string {
	t.Helper()
	resp, err := http.Get("http://127.0.0.1:7742/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("metrics: %s: %v", resp.Status, err)
	}
	return string(text)
}
