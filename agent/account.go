package main

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/coverage"
	"github.com/spile/spile/agent/origin"
	"github.com/spile/spile/agent/source"
	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
)

const (
	// measureEvery: reasons are facts about a running process, so whoever moves bytes that nobody decodes is looked at
	// within this time.
	measureEvery = time.Second
	maxCoverage  = 256 // processes in one account
)

// account keeps the coverage of processes: it asks the kernel for figures, target for reasons and origin for places. One
// goroutine runs it; health may measure too.
type account struct {
	table     *coverage.Table
	read      func() ([]bpf.Coverage, error)                       // the kernel's figures; rows that have ended are told once
	explain   func([]target.Traffic) []target.Uncovered            // why bytes are not decoded
	owner     func(o chunk.Owner, at time.Duration) origin.Process // who a process is
	log       *slog.Logger
	measuring sync.Mutex
	failed    bool // the kernel could not be asked the last time
}

// run measures until ctx ends.
func (a *account) run(ctx context.Context) {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.look(a.measure())
	}
}

// measure takes the kernel's figures of now.
func (a *account) measure() []bpf.Coverage {
	a.measuring.Lock()
	defer a.measuring.Unlock()
	list, err := a.read()
	if err != nil {
		if !a.failed {
			a.log.Warn("read the coverage of processes", "error", err)
		}
		a.failed = true
		return nil
	}
	a.failed = false
	rows := make([]coverage.Row, len(list))
	for i, c := range list {
		rows[i] = coverage.Row{
			Process: coverage.Process{TGID: c.TGID, Start: c.Start}, Cgroup: c.Cgroup, Comm: clean(c.Comm),
			TLS: c.TLSBytes, Decoded: c.DecodedBytes, Unbound: c.UnboundBytes, QUIC: c.QUICBytes, KTLS: c.KTLS, Ended: c.Ended,
		}
	}
	a.table.Update(source.SinceBoot(), rows)
	return list
}

// look finds out why bytes were not decoded, and who the processes are. It reads files, so it may take a second.
func (a *account) look(list []bpf.Coverage) {
	var traffic []target.Traffic
	for _, c := range list {
		if hidden := c.TLSBytes - min(c.TLSBytes, c.DecodedBytes); hidden+c.QUICBytes > 0 || c.KTLS {
			traffic = append(traffic, target.Traffic{
				PID: c.TGID, Start: c.Start, Undecoded: hidden, QUIC: c.QUICBytes, KTLS: c.KTLS, Ended: c.Ended,
			})
		}
	}
	if len(traffic) > 0 {
		for _, u := range a.explain(traffic) {
			a.table.Explain(coverage.Process{TGID: u.PID, Start: u.Start}, clean(u.Process), u.Reason)
		}
	}
	for _, q := range a.table.Questions() {
		p := a.owner(chunk.Owner{TGID: q.TGID, Start: q.Start, Cgroup: q.Cgroup}, source.SinceBoot())
		a.table.Describe(q.Process, coverage.Facts{Name: clean(p.Name), Container: p.Container, PodUID: p.PodUID})
	}
}

// clean makes a file name, which is any bytes, fit for the wire, which takes only UTF-8.
func clean(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }
