package main

import (
	"cmp"
	"slices"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/govern"
	"github.com/spile/spile/bpf"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// maxArrivals is how many cgroups are told apart within a second.
const maxArrivals = 4096

// rootCgroup is the id of the root of cgroup v2 (kernfs numbers it 1): who is in it was put nowhere, and is not one of many.
const rootCgroup = 1

// cgroupOf is what work is told apart by; 0 = by nothing.
func cgroupOf(id uint64) uint64 {
	if id == rootCgroup {
		return 0
	}
	return id
}

// arrivals counts what comes, by cgroup. It belongs to the ring's goroutine, and costs a look at the last cgroup for each
// chunk.
type arrivals struct {
	by   map[uint64]*govern.Share
	last *govern.Share
}

func (a *arrivals) add(c *chunk.Chunk) {
	id := cgroupOf(c.Owner.Cgroup)
	if a.last == nil || a.last.Cgroup != id {
		s := a.by[id]
		if s == nil {
			if len(a.by) >= maxArrivals {
				id = 0 // stands for the rest
			}
			if s = a.by[id]; s == nil {
				s = &govern.Share{Cgroup: id}
				a.by[id] = s
			}
		}
		a.last = s
	}
	a.last.Events++
	a.last.Bytes += uint64(len(c.Data))
}

// hand gives what came to the governor.
func (a *arrivals) hand(g *governor) {
	g.mu.Lock()
	for _, s := range a.by {
		if len(g.arrived) < 2*maxArrivals { // it may be late, and then its last figures will do
			g.arrived = append(g.arrived, *s)
		}
	}
	g.mu.Unlock()
	clear(a.by)
	a.last = nil
}

// maxLosses is how many losses of cgroups are told: those of most heads.
const maxLosses = 64

// cgroupLosses names the cgroups that lost most.
func cgroupLosses(list []bpf.CgroupLoss, path func(id uint64) string) []*v1.CgroupLoss {
	slices.SortFunc(list, func(a, b bpf.CgroupLoss) int {
		return cmp.Or(cmp.Compare(b.Heads, a.Heads), cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Cgroup, b.Cgroup), cmp.Compare(a.Reason, b.Reason))
	})
	var rows []*v1.CgroupLoss
	for _, l := range list[:min(len(list), maxLosses)] {
		name := "others"
		if l.Cgroup != 0 {
			name = path(l.Cgroup)
		}
		rows = append(rows, &v1.CgroupLoss{Cgroup: name, Reason: l.Reason, Calls: l.Events, Bytes: l.Bytes, Heads: l.Heads})
	}
	return rows
}
