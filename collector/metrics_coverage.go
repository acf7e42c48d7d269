package main

import (
	"cmp"
	"maps"
	"math"
	"math/bits"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	// maxMetricWorkloads bounds the workloads of a node that have series of their own, maxPageWorkloads those of all nodes.
	maxMetricWorkloads = 100
	maxPageWorkloads   = 10_000
	otherWorkloads     = "other"
)

// coverageMetrics say how much of what TLS carried was decoded.
type coverageMetrics struct {
	tls, decoded, unbound, quic, workloadTLS, workloadDecoded, uncovered metric
}

func newCoverageMetrics() coverageMetrics {
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	return coverageMetrics{
		tls:     family(counter, "tls_bytes_total", "TCP payload of sockets that carry TLS, both directions.", "node"),
		decoded: family(counter, "tls_decoded_bytes_total", "The part of spile_tls_bytes_total on connections whose plain bytes are read.", "node"),
		unbound: family(counter, "tls_unbound_bytes_total", "Plain bytes of TLS streams whose socket is unknown.", "node"),
		quic:    family(counter, "quic_bytes_total", "UDP payload of sockets that carry QUIC, which is never decoded.", "node"),
		workloadTLS: family(gauge, "workload_tls_bytes", "TLS bytes of the processes of one name in a workload: a container id, else the process's name; "+
			"workload \"other\" without a process is the rest of the node.", "node", "workload", "process"),
		workloadDecoded: family(gauge, "workload_tls_decoded_bytes", "The part of spile_workload_tls_bytes on connections whose plain bytes are read.", "node", "workload", "process"),
		uncovered:       family(gauge, "agent_uncovered_processes", "Processes of which TLS or QUIC is not decoded.", "node"),
	}
}

// moved is bytes of TLS, and of them those decoded. Agents choose the figures, so sums stop at the largest number.
type moved struct{ tls, decoded uint64 }

func (m *moved) add(o moved) { m.tls, m.decoded = plus(m.tls, o.tls), plus(m.decoded, o.decoded) }

// without is what is left of a total; rows and totals are not read at one moment, so a little may be missing.
func (m moved) without(o moved) moved {
	return moved{m.tls - min(m.tls, o.tls), m.decoded - min(m.decoded, o.decoded)}
}

func (m moved) missing() uint64 { return m.tls - min(m.tls, m.decoded) }

func plus(a, b uint64) uint64 {
	sum, carry := bits.Add64(a, b, 0)
	if carry > 0 {
		return math.MaxUint64
	}
	return sum
}

type workloadLabels struct{ workload, process string }

// collect adds the series of one node. Counters come from the agent's totals, which do not forget processes that have ended.
func (m *coverageMetrics) collect(page *page, node string, h *v1.Health) {
	var total moved
	told := false
	for _, c := range h.GetCounts() {
		if c.GetStage() != "coverage" {
			continue
		}
		switch v := float64(c.GetValue()); c.GetName() {
		case "tls_bytes":
			total.tls, told = c.GetValue(), true
			page.add(m.tls, v, node)
		case "decoded_bytes":
			total.decoded = c.GetValue()
			page.add(m.decoded, v, node)
		case "unbound_bytes":
			page.add(m.unbound, v, node)
		case "quic_bytes":
			page.add(m.quic, v, node)
		}
	}
	workloads, uncovered := map[workloadLabels]moved{}, 0
	var rows moved
	for _, c := range h.GetCoverage() {
		row := moved{c.GetTlsBytes(), c.GetDecodedBytes()}
		if row.missing() > 0 || c.GetQuicBytes() > 0 || c.GetReason() != "" {
			uncovered++
		}
		labels := workloadLabels{cmp.Or(c.GetContainer(), c.GetProcess()), c.GetProcess()}
		sum := workloads[labels]
		sum.add(row)
		workloads[labels] = sum
		rows.add(row)
	}
	page.add(m.uncovered, float64(uncovered), node)
	if len(workloads) == 0 && !told {
		return
	}
	if !told {
		total = rows
	}
	order := slices.SortedFunc(maps.Keys(workloads), func(a, b workloadLabels) int {
		x, y := workloads[a], workloads[b]
		return cmp.Or(cmp.Compare(y.missing(), x.missing()), cmp.Compare(y.tls, x.tls), cmp.Compare(a.workload, b.workload), cmp.Compare(a.process, b.process))
	})
	order = order[:min(len(order), maxMetricWorkloads, maxPageWorkloads-page.workloads)]
	page.workloads += len(order)
	var shown moved
	for _, labels := range order {
		w := workloads[labels]
		shown.add(w)
		page.add(m.workloadTLS, float64(w.tls), node, labels.workload, labels.process)
		page.add(m.workloadDecoded, float64(w.decoded), node, labels.workload, labels.process)
	}
	rest := total.without(shown)
	page.add(m.workloadTLS, float64(rest.tls), node, otherWorkloads, "")
	page.add(m.workloadDecoded, float64(rest.decoded), node, otherWorkloads, "")
}
