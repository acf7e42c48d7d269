package main

import (
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spile/spile/agent/probe"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// health is the agent's own account. It is called by the shipper's goroutine; before there is a tap it says so by
// naming no rung.
func (a *agent) health() *v1.Health {
	a.healthMu.Lock()
	defer a.healthMu.Unlock()
	if a.last != nil {
		return proto.CloneOf(a.last)
	}
	h := &v1.Health{Time: timestamppb.New(time.Now()), Version: version, Kernel: kernelRelease(), Targets: a.targets}
	t := a.tap.Load()
	if t == nil {
		return h
	}
	h.Rungs = t.objects.Rungs()
	h.Rungs["mapping"] = t.watcher.MappingRung()
	if line := a.line.Load(); line != nil {
		h.Counts = append(h.Counts, *line...)
	}
	kernel, err := t.objects.Counts()
	if err != nil {
		a.log.Warn("read the kernel's counters", "error", err)
	}
	for _, c := range kernel {
		h.Counts = append(h.Counts, &v1.Count{Stage: "kernel", Name: c.Name, Value: c.Value, Lost: c.Lost})
	}
	h.Probes = probeRows(t.probes.List())
	// The registry tells of a list that cannot be read, once.
	denied, _ := probe.Denials(a.data)
	if rows, omitted := denialRows(denied); omitted > 0 {
		h.Denials, h.Omitted = rows, map[string]uint64{"denials": omitted}
	} else {
		h.Denials = rows
	}
	h.Gates = t.gates.rows()
	h.Counts = append(h.Counts, t.crashes.counts()...)
	h.Governor = t.governor.account(bootToUnix())
	h.Governor.Exceeded = t.governor.exceeded()
	h.Counts = append(h.Counts, t.governor.counts()...)
	losses, err := t.objects.CgroupLosses()
	if err != nil {
		a.log.Warn("read the losses of cgroups", "error", err)
	}
	h.CgroupLosses = cgroupLosses(losses, t.cgroups.Path)
	t.account.measure()
	h.Coverage = t.account.table.Rows(maxCoverage)
	t.account.table.Counts(func(name string, value uint64) {
		h.Counts = append(h.Counts, &v1.Count{Stage: "coverage", Name: name, Value: value})
	})
	return h
}

// lineCounts is what became of everything between the ring and the shipper. It runs in the pipeline's goroutine.
func lineCounts(t *tap, p *pipeline) []*v1.Count {
	var out []*v1.Count
	add := func(stage, name string, value uint64, lost bool) {
		out = append(out, &v1.Count{Stage: stage, Name: name, Value: value, Lost: lost})
	}
	read := t.ring.Counts()
	add("source", "chunks", read.Chunks, false)
	add("source", "closes", read.Closes, false)
	add("source", "processes", read.Processes, false)
	add("source", "crashes", read.Crashes, false)
	add("source", "malformed", read.Malformed, true)
	p.flow.Counts().Each(func(name string, value uint64) { add("flow", name, value, strings.HasPrefix(name, "lost_")) })
	j := p.join.Counts()
	add("join", "seen", j.Seen, false)
	add("join", "joined", j.Joined, false)
	add("join", "alone", j.Alone, false)
	add("join", "overflow", j.Overflow, false)
	add("join", "ends_evicted", p.evicted, false)
	processes, watcher := t.processes.Stats(), t.watcher.Stats()
	add("origin", "processes_gone", processes.Gone, false)
	add("origin", "processes_evicted", processes.Evicted, false)
	add("target", "execs_dropped", watcher.ExecsDropped, false)
	add("target", "files_failed", watcher.FilesFailed, false)
	add("target", "files_refused", t.probes.Refused(), true)
	add("target", "files_evicted", t.probes.Evicted(), false)
	add("target", "verdicts_lost", watcher.VerdictsLost, true)
	return out
}
