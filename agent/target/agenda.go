package target

import (
	"container/heap"
	"time"
)

// retries are the times after an exec at which the dynamic linker has probably mapped more.
func retries() []time.Duration {
	return []time.Duration{5 * time.Millisecond, 50 * time.Millisecond, 300 * time.Millisecond, time.Second}
}

// crowded is how many looks may be planned before the earliest ones are left out: in a storm of short processes most
// are gone by the second look.
const crowded = 512

// maxPlanned bounds the plan; what does not fit is found by the next reconcile.
const maxPlanned = 8192

type planned struct {
	at  time.Time
	pid uint32
}

// agenda is the looks that are planned, earliest first.
type agenda struct{ looks plannedHeap }

func (a *agenda) add(pid uint32, now time.Time) {
	for i, after := range retries() {
		if i == 0 && len(a.looks) > crowded || len(a.looks) >= maxPlanned {
			continue
		}
		heap.Push(&a.looks, planned{now.Add(after), pid})
	}
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
		pids = append(pids, heap.Pop(&a.looks).(planned).pid)
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
