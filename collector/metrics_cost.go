package main

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	// maxMetricBuilds bounds the probed builds of a node that have series of their own, maxPageBuilds those of all nodes; the
	// same for cgroups that lost calls. What is beyond goes to "other".
	maxMetricBuilds  = 100
	maxPageBuilds    = 10_000
	maxMetricCgroups = 64
	maxPageCgroups   = 10_000
	others           = "other"
)

// governorStages are in the order in which an agent reaches them.
func governorStages() []string {
	return []string{"full", "no_bodies", "no_responses", "sampled", "detached"}
}

// costMetrics say what agents cost, what they do about it, and which cgroups pay.
type costMetrics struct {
	stage, exceeded, denied, cpu, cpuBudget, probeCores, probeBudget, hits, cost, lost, gate metric
}

func newCostMetrics() costMetrics {
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	return costMetrics{
		stage:       family(gauge, "agent_governor_stage", "How much the agent leaves out: 0 full, 1 no_bodies, 2 no_responses, 3 sampled, 4 detached.", "node"),
		exceeded:    family(gauge, "agent_over_budget", "1 while a budget is exceeded although nothing is left to leave out, else 0.", "node"),
		denied:      family(gauge, "agent_denied_builds", "Builds that are not probed any more because programs crashed of it.", "node"),
		cpu:         family(gauge, "agent_cpu_cores", "Cores that the agent's own threads use, over ten seconds.", "node"),
		cpuBudget:   family(gauge, "agent_cpu_budget_cores", "Cores that they may use; 0 = no limit.", "node"),
		probeCores:  family(gauge, "agent_probe_cores", "Cores that probes cost the watched programs, over ten seconds: an estimate.", "node"),
		probeBudget: family(gauge, "agent_probe_budget_cores", "Cores that they may cost; 0 = no limit.", "node"),
		hits:        family(counter, "probe_hits_total", "Times that the probes of a build were hit.", "node", "library", "build_id"),
		cost:        family(counter, "probe_cost_seconds_total", "What those hits cost the watched programs: hits times the measured cost of one.", "node", "library", "build_id"),
		lost: family(counter, "cgroup_lost_messages_total", "Messages of a cgroup (a request and a response are two) whose beginning did not reach the agent, "+
			"by reason; \"sampled\" is on purpose.", "node", "cgroup", "reason"),
		gate: family(gauge, "agent_gate", "1 where a test of the host before attaching passed, else 0.", "node", "gate"),
	}
}

type buildLabels struct{ library, build string }

type buildCost struct {
	hits uint64
	cost time.Duration
}

func (b *buildCost) add(o buildCost) {
	b.hits, b.cost = plus(b.hits, o.hits), max(b.cost, b.cost+o.cost)
}

// collect adds the series of one node.
func (m *costMetrics) collect(page *page, node string, h *v1.Health) {
	if g := h.GetGovernor(); g != nil {
		if stage := slices.Index(governorStages(), g.GetStage()); stage >= 0 {
			page.add(m.stage, float64(stage), node)
		}
		over := 0.0
		if g.GetExceeded() != "" {
			over = 1
		}
		page.add(m.exceeded, over, node)
		page.add(m.denied, float64(len(h.GetDenials()))+float64(h.GetOmitted()["denials"]), node)
		page.add(m.cpu, g.GetAgentCores(), node)
		page.add(m.cpuBudget, g.GetAgentBudgetCores(), node)
		page.add(m.probeCores, g.GetProbeCores(), node)
		page.add(m.probeBudget, g.GetProbeBudgetCores(), node)
	}
	for _, g := range h.GetGates() {
		passed := 0.0
		if g.GetState() == "passed" {
			passed = 1
		}
		page.add(m.gate, passed, node, g.GetName())
	}
	m.builds(page, node, h.GetProbes())
	m.cgroups(page, node, h.GetCgroupLosses())
}

// builds sums over the files of a build: each container may have a copy.
func (m *costMetrics) builds(page *page, node string, probes []*v1.Probe) {
	sums := map[buildLabels]buildCost{}
	for _, p := range probes {
		if p.GetHits() == 0 {
			continue
		}
		labels := buildLabels{p.GetLibrary(), p.GetBuildId()}
		sum := sums[labels]
		sum.add(buildCost{p.GetHits(), p.GetCost().AsDuration()})
		sums[labels] = sum
	}
	order := slices.SortedFunc(maps.Keys(sums), func(a, b buildLabels) int {
		x, y := sums[a], sums[b]
		return cmp.Or(cmp.Compare(y.cost, x.cost), cmp.Compare(y.hits, x.hits), cmp.Compare(a.library, b.library), cmp.Compare(a.build, b.build))
	})
	shown := min(len(order), maxMetricBuilds, maxPageBuilds-page.builds)
	page.builds += shown
	var rest buildCost
	for i, labels := range order {
		sum := sums[labels]
		if i >= shown {
			rest.add(sum)
			continue
		}
		page.add(m.hits, float64(sum.hits), node, labels.library, labels.build)
		page.add(m.cost, sum.cost.Seconds(), node, labels.library, labels.build)
	}
	if len(order) > shown {
		page.add(m.hits, float64(rest.hits), node, others, "")
		page.add(m.cost, rest.cost.Seconds(), node, others, "")
	}
}

type lossLabels struct{ cgroup, reason string }

// cgroups come with those first that lost most.
func (m *costMetrics) cgroups(page *page, node string, losses []*v1.CgroupLoss) {
	room := min(maxMetricCgroups, maxPageCgroups-page.cgroups)
	sums, named := map[lossLabels]uint64{}, map[string]bool{}
	for _, l := range losses {
		cgroup := l.GetCgroup()
		if !named[cgroup] && len(named) >= room {
			cgroup = others
		} else {
			named[cgroup] = true
		}
		labels := lossLabels{cgroup, l.GetReason()}
		if _, known := sums[labels]; !known && len(sums) >= 8*maxMetricCgroups {
			page.omitted++ // an agent names reasons without end
			continue
		}
		sums[labels] = plus(sums[labels], l.GetHeads())
	}
	page.cgroups += len(named)
	for labels, heads := range sums {
		page.add(m.lost, float64(heads), node, labels.cgroup, labels.reason)
	}
}
