package main

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

func TestMetricsOfCost(t *testing.T) {
	probe := func(build string, hits uint64, cost time.Duration) *v1.Probe {
		return &v1.Probe{Library: "OpenSSL", BuildId: build, Hits: hits, Cost: durationpb.New(cost)}
	}
	got := series(t, &v1.Agent{Node: "n1", Health: &v1.Health{
		Governor: &v1.Governor{Stage: "no_responses", AgentCores: 1.5, AgentBudgetCores: 1, ProbeCores: 0.25, ProbeBudgetCores: 2, Exceeded: "nothing is left"},
		Denials:  []*v1.Denial{{BuildId: "a"}}, Omitted: map[string]uint64{"probes": 7, "denials": 2},
		Gates:  []*v1.Gate{{Name: "preempt", State: "passed"}, {Name: "uretprobe_seccomp", State: "refused"}},
		Probes: []*v1.Probe{probe("b1", 10, time.Second), probe("b1", 5, time.Second/2), probe("b2", 7, 0), probe("b3", 0, 0)},
		CgroupLosses: []*v1.CgroupLoss{{Cgroup: "/a", Reason: "pressure", Heads: 3, Calls: 9}, {Cgroup: "/a", Reason: "sampled", Heads: 4},
			{Cgroup: "/b", Reason: "pressure", Heads: 5}},
	}})
	// Labels come in the order of their names.
	for name, want := range map[string]float64{
		"spile_agent_over_budget{n1}": 1, "spile_agent_denied_builds{n1}": 3, "spile_agent_probes{n1,omitted}": 7,
		"spile_agent_governor_stage{n1}": 2, "spile_agent_cpu_cores{n1}": 1.5, "spile_agent_cpu_budget_cores{n1}": 1,
		"spile_agent_probe_cores{n1}": 0.25, "spile_agent_probe_budget_cores{n1}": 2,
		"spile_agent_gate{preempt,n1}": 1, "spile_agent_gate{uretprobe_seccomp,n1}": 0,
		"spile_probe_hits_total{b1,OpenSSL,n1}": 15, "spile_probe_cost_seconds_total{b1,OpenSSL,n1}": 1.5,
		"spile_probe_hits_total{b2,OpenSSL,n1}": 7, "spile_probe_cost_seconds_total{b2,OpenSSL,n1}": 0,
		"spile_cgroup_lost_messages_total{/a,n1,pressure}": 3, "spile_cgroup_lost_messages_total{/a,n1,sampled}": 4,
		"spile_cgroup_lost_messages_total{/b,n1,pressure}": 5,
	} {
		if v, there := got[name]; !there || v != want {
			t.Errorf("%s is %v (there: %v), want %v", name, v, there, want)
		}
	}
	for name := range got {
		if strings.Contains(name, "b3") {
			t.Errorf("a probe that was never hit has %s", name)
		}
	}
	// An agent that says nothing, or a stage that nobody knows, has none.
	for name := range series(t, &v1.Agent{Node: "n1", Health: &v1.Health{}}, &v1.Agent{Node: "n2", Health: &v1.Health{Governor: &v1.Governor{Stage: "x"}}}) {
		if strings.Contains(name, "governor_stage") || strings.Contains(name, "cpu_cores{n1}") {
			t.Error(name)
		}
	}
}

// TestMetricsOfCostAreBoundedAndAddUp has a hostile agent.
func TestMetricsOfCostAreBoundedAndAddUp(t *testing.T) {
	var nodes []*v1.Agent
	var hits, heads float64
	for n := range maxPageCgroups/maxMetricCgroups + 3 {
		h := &v1.Health{}
		for i := range uint64(maxMetricBuilds + 100) {
			h.Probes = append(h.Probes, &v1.Probe{Library: fmt.Sprint("l\xff", i), BuildId: "b", Hits: i + 1, Cost: &durationpb.Duration{Seconds: int64(i)}})
			h.CgroupLosses = append(h.CgroupLosses, &v1.CgroupLoss{Cgroup: fmt.Sprint("/c", i), Reason: "ring_full", Heads: i})
			hits, heads = hits+float64(i+1), heads+float64(i)
		}
		nodes = append(nodes, &v1.Agent{Node: fmt.Sprintf("n%03d", n), Health: h})
	}
	var gotHits, gotHeads float64
	builds, cgroups := 0, 0
	for name, v := range series(t, nodes...) {
		switch {
		case strings.HasPrefix(name, "spile_probe_hits_total"):
			builds++
			gotHits += v
		case strings.HasPrefix(name, "spile_cgroup_lost"):
			cgroups++
			gotHeads += v
		}
	}
	if gotHits != hits || gotHeads != heads {
		t.Errorf("%v hits of %v, %v heads of %v", gotHits, hits, gotHeads, heads)
	}
	if builds > maxPageBuilds+len(nodes) || cgroups > maxPageCgroups+len(nodes) || builds < maxPageBuilds || cgroups < maxPageCgroups {
		t.Errorf("%d builds, %d cgroups have series", builds, cgroups)
	}
	one := &v1.Health{}
	for i := range 5000 {
		one.CgroupLosses = append(one.CgroupLosses, &v1.CgroupLoss{Cgroup: "/c", Reason: fmt.Sprint(i), Heads: math.MaxUint64})
		one.Probes = append(one.Probes, &v1.Probe{Hits: math.MaxUint64, Cost: &durationpb.Duration{Seconds: math.MaxInt64}})
	}
	got := series(t, &v1.Agent{Node: "n", Health: one})
	if n := len(got); n > 1000 {
		t.Errorf("%d series", n)
	}
	if v := got["spile_probe_cost_seconds_total{,,n}"]; v <= 0 {
		t.Errorf("cost went to %v", v)
	}
}

// TestLostMessagesAreCalledThat: an agent counts heads of messages, and reads and writes, but no calls; neither the name nor
// the help may say otherwise.
func TestLostMessagesAreCalledThat(t *testing.T) {
	lost := newCostMetrics().lost.desc.String()
	if !strings.Contains(lost, `fqName: "spile_cgroup_lost_messages_total"`) || !strings.Contains(lost, "a request and a response are two") {
		t.Error(lost)
	}
}
