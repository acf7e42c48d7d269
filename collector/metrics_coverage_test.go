package main

import (
	"fmt"
	"math"
	"strings"
	"testing"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// series gathers the metrics of some agents: name{labels in order of their names} → value.
func series(t testing.TB, nodes ...*v1.Agent) map[string]float64 {
	t.Helper()
	r, err := registry(sources{status: func() *v1.GetStatusResponse { return nil }, agents: func() []*v1.Agent { return nodes }, sinks: func() []*v1.Sink { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			all[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return all
}

func coverageCount(name string, v uint64) *v1.Count {
	return &v1.Count{Stage: "coverage", Name: name, Value: v}
}

func TestMetricsOfCoverage(t *testing.T) {
	got := series(t, &v1.Agent{Node: "n1", Health: &v1.Health{
		Counts: []*v1.Count{coverageCount("tls_bytes", 5000), coverageCount("decoded_bytes", 3500), coverageCount("unbound_bytes", 7), coverageCount("quic_bytes", 9)},
		Coverage: []*v1.Coverage{
			{Pid: 1, Process: "nginx", Container: "c1", TlsBytes: 1000, DecodedBytes: 1000},
			{Pid: 2, Process: "nginx", Container: "c1", TlsBytes: 500, DecodedBytes: 100, Reason: "r"},
			{Pid: 3, Process: "sidecar", Container: "c1", TlsBytes: 300},
			{Pid: 4, Process: "other", TlsBytes: 200, DecodedBytes: 200},
			{Pid: 5, Process: "quiche", QuicBytes: 9},
		}}})
	// Labels come in the order node, process, workload.
	for name, want := range map[string]float64{
		"spile_tls_bytes_total{n1}": 5000, "spile_tls_decoded_bytes_total{n1}": 3500, "spile_tls_unbound_bytes_total{n1}": 7, "spile_quic_bytes_total{n1}": 9,
		"spile_workload_tls_bytes{n1,nginx,c1}": 1500, "spile_workload_tls_decoded_bytes{n1,nginx,c1}": 1100,
		"spile_workload_tls_bytes{n1,sidecar,c1}": 300, "spile_workload_tls_decoded_bytes{n1,sidecar,c1}": 0,
		"spile_workload_tls_bytes{n1,other,other}": 200, "spile_workload_tls_decoded_bytes{n1,other,other}": 200,
		// What has ended, or has no row, is the rest.
		"spile_workload_tls_bytes{n1,,other}": 3000, "spile_workload_tls_decoded_bytes{n1,,other}": 2200,
		"spile_agent_uncovered_processes{n1}": 3,
	} {
		if v, there := got[name]; !there || v != want {
			t.Errorf("%s is %v (there: %v), want %v", name, v, there, want)
		}
	}
	if got := series(t, &v1.Agent{Node: "n1", Health: &v1.Health{}}); len(got) == 0 || got["spile_agent_uncovered_processes{n1}"] != 0 {
		t.Errorf("without a row: %v", got)
	} else if _, there := got["spile_tls_bytes_total{n1}"]; there {
		t.Error("an agent that does not say has a total of TLS bytes")
	}
}

// TestMetricsOfCoverageAreBoundedAndAddUp has more nodes with more workloads than there may be series, one of them hostile.
func TestMetricsOfCoverageAreBoundedAndAddUp(t *testing.T) {
	var nodes []*v1.Agent
	for n := range maxPageWorkloads/maxMetricWorkloads + 5 {
		h := &v1.Health{Counts: []*v1.Count{coverageCount("tls_bytes", 1<<40), coverageCount("decoded_bytes", 1<<39)}}
		for i := range uint64(maxMetricWorkloads + 50) {
			h.Coverage = append(h.Coverage, &v1.Coverage{Pid: uint32(i), Process: fmt.Sprint("p", i), TlsBytes: 1000 * i, DecodedBytes: 900 * i})
		}
		nodes = append(nodes, &v1.Agent{Node: fmt.Sprintf("n%03d", n), Health: h})
	}
	hostile := &v1.Agent{Node: "evil", Health: &v1.Health{Counts: []*v1.Count{coverageCount("tls_bytes", 1), coverageCount("tls_bytes", 2)}}}
	for range 3 {
		hostile.Health.Coverage = append(hostile.Health.Coverage, &v1.Coverage{Process: "a\x00\xff\n", TlsBytes: math.MaxUint64, DecodedBytes: math.MaxUint64})
	}
	got := series(t, append(nodes, hostile)...)
	workloads, sums := 0, map[string]float64{}
	for name, v := range got {
		rest, is := strings.CutPrefix(name, "spile_workload_tls_bytes{")
		if !is {
			continue
		}
		if v < 0 || math.IsInf(v, 0) {
			t.Errorf("%s is %v", name, v)
		}
		node, rest, _ := strings.Cut(rest, ",")
		sums[node] += v
		if !strings.HasPrefix(rest, ",") {
			workloads++
		}
	}
	if workloads != maxPageWorkloads {
		t.Errorf("%d workloads have series, want %d", workloads, maxPageWorkloads)
	}
	for _, a := range nodes {
		if sums[a.GetNode()] != 1<<40 || got["spile_workload_tls_bytes{"+a.GetNode()+",,other}"] == 0 {
			t.Errorf("workloads of %s add up to %v", a.GetNode(), sums[a.GetNode()])
		}
	}
}
