package main

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	maxMetricNodes  = 1000
	maxMetricCounts = 256
)

// sources is what metrics are made of, at the time they are asked for.
type sources struct {
	status func() *v1.GetStatusResponse
	agents func() []*v1.Agent
	sinks  func() []*v1.Sink
}

// metric is one family; label values follow in the order of labels.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func family(kind prometheus.ValueType, name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc("spile_"+name, help, labels, nil), kind}
}

// exporter turns the collector's and the agents' own accounts into metrics. It keeps no counter: what an agent counted is
// the agent's, and goes back to zero when the agent starts again, as Prometheus expects.
type exporter struct {
	from sources

	info, agents, received, refused, duplicates, services, endpoints, findings, lag, bytes, stage metric
	connected, skew, calls, nodeRefused, seen, lost, probes, rung, omitted                        metric
	delivered, backlog, errors                                                                    metric
	coverage                                                                                      coverageMetrics
	cost                                                                                          costMetrics
}

func newExporter(from sources) *exporter {
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	return &exporter{
		from:        from,
		info:        family(gauge, "build_info", "Version of the collector.", "version"),
		agents:      family(gauge, "agents", "Agents that are known."),
		received:    family(counter, "calls_received_total", "Calls that the journal stored, each counted once."),
		refused:     family(counter, "calls_refused_total", "Calls that were refused for good."),
		duplicates:  family(counter, "duplicate_batches_total", "Batches that came a second time and were not counted again."),
		services:    family(gauge, "services", "Services in the inventory."),
		endpoints:   family(gauge, "endpoints", "Endpoints in the inventory."),
		findings:    family(gauge, "findings", "Findings."),
		lag:         family(gauge, "journal_lag_batches", "Batches that the inventory has not read yet."),
		bytes:       family(gauge, "journal_bytes", "Size of the journal."),
		stage:       family(counter, "collector_total", "What the collector's stages counted.", "stage", "name", "lost"),
		connected:   family(gauge, "agent_connected", "1 while the agent of the node is connected.", "node"),
		skew:        family(gauge, "agent_clock_skew_seconds", "Agent's clock minus collector's.", "node"),
		calls:       family(counter, "agent_calls_total", "Calls of the agent that the journal stored, each counted once.", "node"),
		nodeRefused: family(counter, "agent_refused_total", "Calls of the agent that were refused.", "node"),
		seen:        family(counter, "agent_seen_total", "What a stage of the agent counted as seen.", "node", "stage", "name"),
		lost:        family(counter, "agent_lost_total", "What a stage of the agent lost, by reason.", "node", "stage", "reason"),
		probes:      family(gauge, "agent_probes", "Files with probes, by state; \"omitted\" are those that the agent's report had no room for.", "node", "state"),
		rung:        family(gauge, "agent_rung_info", "Rung in use on each ladder of hooks.", "node", "ladder", "rung"),
		omitted:     family(gauge, "metrics_omitted", "Series left out to keep this page bounded."),
		delivered:   family(counter, "sink_delivered_total", "Findings that the sink took.", "sink"),
		backlog:     family(gauge, "sink_backlog", "Findings that wait for the sink.", "sink"),
		errors:      family(counter, "sink_errors_total", "Failed deliveries.", "sink"),
		coverage:    newCoverageMetrics(),
		cost:        newCostMetrics(),
	}
}

// registry holds the exporter and the process's own metrics, all prefixed spile_.
func registry(from sources) (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	prefixed := prometheus.WrapRegistererWithPrefix("spile_", r)
	for _, c := range []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := prefixed.Register(c); err != nil {
			return nil, err
		}
	}
	return r, r.Register(newExporter(from))
}

// Describe announces nothing: the series depend on who is connected.
func (e *exporter) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (e *exporter) Collect(out chan<- prometheus.Metric) {
	page := &page{out: out, once: map[string]bool{}}
	st := e.from.status()
	page.add(e.info, 1, st.GetVersion())
	page.add(e.agents, float64(st.GetAgents()))
	page.add(e.received, float64(st.GetCallsReceived()))
	page.add(e.refused, float64(st.GetCallsRefused()))
	page.add(e.duplicates, float64(st.GetDuplicates()))
	page.add(e.services, float64(st.GetServices()))
	page.add(e.endpoints, float64(st.GetEndpoints()))
	page.add(e.findings, float64(st.GetFindings()))
	page.add(e.lag, float64(st.GetLagBatches()))
	page.add(e.bytes, float64(st.GetJournalBytes()))
	for _, c := range page.bounded(st.GetCounts()) {
		lost := "false"
		if c.GetLost() {
			lost = "true"
		}
		page.add(e.stage, float64(c.GetValue()), c.GetStage(), c.GetName(), lost)
	}
	nodes := slices.Clone(e.from.agents())
	slices.SortFunc(nodes, func(a, b *v1.Agent) int { return cmp.Compare(a.GetNode(), b.GetNode()) })
	if len(nodes) > maxMetricNodes {
		page.omitted += len(nodes) - maxMetricNodes
		nodes = nodes[:maxMetricNodes]
	}
	for _, a := range nodes {
		e.agent(page, a)
	}
	for _, s := range e.from.sinks() {
		page.add(e.delivered, float64(s.GetDelivered()), s.GetName())
		page.add(e.backlog, float64(s.GetBacklog()), s.GetName())
		page.add(e.errors, float64(s.GetErrors()), s.GetName())
	}
	page.add(e.omitted, float64(page.omitted))
}

func (e *exporter) agent(page *page, a *v1.Agent) {
	node, h := a.GetNode(), a.GetHealth()
	up := 0.0
	if a.GetConnected() {
		up = 1
	}
	page.add(e.connected, up, node)
	page.add(e.skew, a.GetSkewSeconds(), node)
	page.add(e.calls, float64(a.GetCalls()), node)
	page.add(e.nodeRefused, float64(a.GetRefused()), node)
	e.coverage.collect(page, node, h)
	e.cost.collect(page, node, h)
	for _, c := range page.bounded(h.GetCounts()) {
		if c.GetLost() {
			page.add(e.lost, float64(c.GetValue()), node, c.GetStage(), c.GetName())
		} else {
			page.add(e.seen, float64(c.GetValue()), node, c.GetStage(), c.GetName())
		}
	}
	states := map[string]int{}
	for _, p := range h.GetProbes() {
		states[p.GetState()]++
	}
	if n := h.GetOmitted()["probes"]; n > 0 {
		states["omitted"] += int(min(n, math.MaxInt32))
	}
	for state, n := range states {
		page.add(e.probes, float64(n), node, state)
	}
	for ladder, rung := range h.GetRungs() {
		page.add(e.rung, 1, node, ladder, rung)
	}
}

// page is one answer. An agent decides on names here, so each series is taken once, and what does not fit is counted.
type page struct {
	out     chan<- prometheus.Metric
	once    map[string]bool
	omitted int
	// workloads are those with series of their own so far.
	workloads int
	// builds and cgroups are the same.
	builds, cgroups int
}

func (p *page) bounded(counts []*v1.Count) []*v1.Count {
	if len(counts) > maxMetricCounts {
		p.omitted += len(counts) - maxMetricCounts
		counts = counts[:maxMetricCounts]
	}
	return counts
}

func (p *page) add(m metric, value float64, labels ...string) {
	for i, l := range labels {
		labels[i] = strings.ToValidUTF8(l, "\ufffd")
	}
	key := m.desc.String() + "\x00" + strings.Join(labels, "\x00")
	if p.once[key] {
		p.omitted++
		return
	}
	p.once[key] = true
	made, err := prometheus.NewConstMetric(m.desc, m.kind, value, labels...)
	if err != nil {
		p.omitted++
		return
	}
	p.out <- made
}
