package coverage

import (
	"cmp"
	"slices"
	"time"
)

const (
	keepEnded = 10 * time.Minute
	maxEnded  = 256
	// keepCaller is how long a process that is known by its calls alone is kept in silence: nobody tells of its end.
	keepCaller = 10 * time.Minute
	maxCallers = 4096
	// unlisted is how long the kernel may leave a process out before it counts as ended: a listing beside deletions may
	// be cut short.
	unlisted = time.Minute
	// describeAgain: a process may run another program.
	describeAgain = 30 * time.Second
	maxQuestions  = 256
)

// Question asks who a process is.
type Question struct {
	Process
	Cgroup uint64
}

// Questions lists processes to be described: new ones, and now and then those that run. The answers go to Describe.
func (t *Table) Questions() []Question {
	t.mu.Lock()
	defer t.mu.Unlock()
	var fresh, again []Question
	for _, e := range t.entries {
		switch {
		case !e.known:
			fresh = append(fresh, Question{e.Process, e.cgroup})
		case e.ended == 0 && t.now-e.described >= describeAgain && t.now-e.used < describeAgain:
			again = append(again, Question{e.Process, e.cgroup})
		}
	}
	all := append(fresh, again...)
	return all[:min(len(all), maxQuestions)]
}

// Describe says who a process is. What is empty does not replace what is known.
func (t *Table) Describe(p Process, f Facts) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[p]
	if e == nil {
		return
	}
	e.known, e.described = true, t.now
	e.facts = Facts{cmp.Or(f.Name, e.facts.Name), cmp.Or(f.Container, e.facts.Container), cmp.Or(f.PodUID, e.facts.PodUID)}
}

// Explain says why not all bytes of a process are decoded, one line for a person, and its name as it was seen then. Both
// are kept when the process ends.
func (t *Table) Explain(p Process, name, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[p]; e != nil && reason != "" {
		e.reason, e.facts.Name = reason, cmp.Or(e.facts.Name, name)
	}
}

// forget ends and drops what its time has come for. The totals keep what it moved.
func (t *Table) forget() {
	var ended []*entry
	for p, e := range t.entries {
		if e.used == 0 {
			e.used = t.now // it told before the first update, which is the clock
		}
		if e.kernel && e.ended == 0 && t.now-e.listed >= unlisted {
			e.ended = e.listed
		}
		switch {
		case e.final && e.row != (figures{}) && t.now-e.listed < unlisted:
			// The kernel still counts for it: dropped, it would come back and be counted twice.
		case e.ended != 0 && t.now-e.ended >= keepEnded:
			delete(t.entries, p)
		case e.ended != 0:
			ended = append(ended, e)
		case !e.kernel && t.now-e.used >= keepCaller:
			delete(t.entries, p)
			t.callers--
		}
	}
	if len(ended) <= maxEnded {
		return
	}
	// Those that were decoded go first: the others are what somebody looks for.
	slices.SortFunc(ended, func(a, b *entry) int {
		return cmp.Or(compareBool(a.hidden(), b.hidden()), cmp.Compare(a.ended, b.ended), cmp.Compare(a.TGID, b.TGID))
	})
	for _, e := range ended[:len(ended)-maxEnded] {
		delete(t.entries, e.Process)
		t.evicted++
	}
}

// evictCaller drops the process that was silent longest among a few that are known by their calls alone: an exact order
// would cost more than it is worth.
func (t *Table) evictCaller() {
	const sample = 64
	var oldest *entry
	n := 0
	for _, e := range t.entries {
		if e.kernel {
			continue
		}
		if oldest == nil || e.used < oldest.used {
			oldest = e
		}
		if n++; n >= sample {
			break
		}
	}
	if oldest != nil {
		delete(t.entries, oldest.Process)
		t.callers--
		t.evicted++
	}
}

// hidden says that bytes of the process were not decoded.
func (e *entry) hidden() bool { return e.undecoded+e.row.quic+e.before.quic > 0 }

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
