package target

import (
	"container/heap"
	"time"
)

// retries are the times after an exec at which the dynamic linker has probably mapped more. Where the kernel tells of
// mappings, one late look is left, for what was mapped while nothing could be told.
func retries(told bool) []time.Duration {
	if told {
		return []time.Duration{time.Second}
	}
	return []time.Duration{5 * time.Millisecond, 50 * time.Millisecond, 300 * time.Millisecond, time.Second}
}

// crowded is how many looks may be planned before the earliest ones are left out: in a storm of short processes most
// are gone by the second look.
const crowded = 512

// maxPlanned bounds the plan; what does not fit is found by the next reconcile.
const maxPlanned = 8192

type planned struct {
	at   time.Time
	pid  uint32
	once bool
}

// agenda is the looks that are planned, earliest first.
type agenda struct {
	looks plannedHeap
	soon  map[uint32]bool // processes with a look that was asked for with once
}

func (a *agenda) add(pid uint32, now time.Time, times []time.Duration) {
	for i, after := range times {
		if i == 0 && len(a.looks) > crowded || len(a.looks) >= maxPlanned {
			continue
		}
		heap.Push(&a.looks, planned{at: now.Add(after), pid: pid})
	}
}

// once plans a look unless one is planned in this way already: a program may map files faster than anybody can look.
func (a *agenda) once(pid uint32, at time.Time) {
	if a.soon[pid] || len(a.looks) >= maxPlanned {
		return
	}
	if a.soon == nil {
		a.soon = map[uint32]bool{}
	}
	a.soon[pid] = true
	heap.Push(&a.looks, planned{at: at, pid: pid, once: true})
}

// wait is how long until the first look.
func (a *agenda) wait(now time.Time) time.Duration {
	if len(a.looks) == 0 {
		return time.Hour
	}
	return max(0, a.looks[0].at.Sub(now))
}

// due takes the looks whose time has come.
func (a *agenda) due(now time.Time) []uint32 {
	var pids []uint32
	for len(a.looks) > 0 && !a.looks[0].at.After(now) {
		p := heap.Pop(&a.looks).(planned)
		if p.once {
			delete(a.soon, p.pid)
		}
		pids = append(pids, p.pid)
	}
	return pids
}

type plannedHeap []planned

func (h plannedHeap) Len() int           { return len(h) }
func (h plannedHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h plannedHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *plannedHeap) Push(x any)        { *h = append(*h, x.(planned)) }
func (h *plannedHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
