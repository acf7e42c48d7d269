package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spile/spile/agent/probe"
	"github.com/spile/spile/agent/target"
	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	maxDenialRows = 64
	// maxReasons of one file are told: where it is attached to single processes, each may have one.
	maxReasons = 3
)

// probeRows makes one row of each file, also of one that is attached to single processes (--deny). What a person must know
// comes first, for there may be room for some only: denied, suspended, otherwise not probed, then what costs most.
func probeRows(states []probe.State) []*v1.Probe {
	var rows []*v1.Probe
	group := map[target.Identity][]probe.State{}
	var order []target.Identity
	for _, s := range states {
		if _, known := group[s.ID]; !known {
			order = append(order, s.ID)
		}
		group[s.ID] = append(group[s.ID], s)
	}
	for _, id := range order {
		rows = append(rows, probeRow(group[id]))
	}
	slices.SortStableFunc(rows, func(a, b *v1.Probe) int {
		return cmp.Or(cmp.Compare(urgency(a), urgency(b)), cmp.Compare(b.Cost.AsDuration(), a.Cost.AsDuration()), cmp.Compare(b.Hits, a.Hits))
	})
	return rows
}

func urgency(p *v1.Probe) int {
	switch {
	case p.State == string(probe.Denied):
		return 0
	case p.State == string(probe.Suspended):
		return 1
	case p.Reason != "" && p.State != string(probe.Canary) && p.State != string(probe.Attached):
		return 2
	}
	return 3
}

// phases are in the order in which one of them speaks for a file.
func phases() []probe.Phase {
	return []probe.Phase{probe.Denied, probe.Suspended, probe.Attached, probe.Canary, probe.Attaching, probe.Failed, probe.Draining}
}

func probeRow(of []probe.State) *v1.Probe {
	lead := slices.MinFunc(of, func(a, b probe.State) int {
		return cmp.Compare(slices.Index(phases(), a.Phase), slices.Index(phases(), b.Phase))
	})
	row := &v1.Probe{Library: lead.Library, Path: lead.Path, BuildId: lead.BuildID, State: string(lead.Phase)}
	var cost int64
	var reasons []string
	for _, s := range of {
		row.Processes += uint32(s.Processes)
		row.Hits += s.Hits
		cost += int64(s.Cost)
		row.Unleased = cmp.Or(row.Unleased, s.Unleased)
		for _, site := range s.Sites {
			if !slices.Contains(row.Sites, site) {
				row.Sites = append(row.Sites, site)
			}
		}
		reason := s.Reason
		if reason != "" && s.Only != 0 && s.Phase != lead.Phase {
			reason = fmt.Sprintf("process %d: %s", s.Only, reason)
		}
		if reason != "" && !slices.Contains(reasons, reason) {
			reasons = append(reasons, reason)
		}
	}
	if n := len(reasons) - maxReasons; n > 0 {
		reasons = append(reasons[:maxReasons], fmt.Sprintf("and %d more reasons", n))
	}
	row.Reason = strings.Join(reasons, "; ")
	row.Cost = &durationpb.Duration{Seconds: cost / 1e9, Nanos: int32(cost % 1e9)}
	return row
}

// denialRows are the builds that are denied, also those that nobody runs now: a program that crashes at once is gone before
// anybody looks. omitted counts those that there is no room for.
func denialRows(denied []probe.Denial) (rows []*v1.Denial, omitted uint64) {
	for _, d := range denied[:min(len(denied), maxDenialRows)] {
		rows = append(rows, &v1.Denial{
			BuildId: cmp.Or(d.BuildID, d.Name()), Library: d.Library, Path: d.Path, Reason: d.Reason(), Evidence: d.Evidence, Since: timestamppb.New(d.When),
			Name: d.Name(),
		})
	}
	return rows, uint64(len(denied) - len(rows))
}

// exceeded says why a budget is exceeded although nothing is left to leave out; "" = none is.
func (g *governor) exceeded() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now.Stuck
}
