package owner

import (
	"cmp"
	"slices"
)

const (
	// windowBatches below the highest number are remembered one by one.
	windowBatches = 1024
	windowWords   = windowBatches / 64
	// maxEpochs of one agent, the newest; maxAgents of one partition, those heard of last.
	maxEpochs = 8
	maxAgents = 4096
)

// verdict on a record's number.
type verdict uint8

const (
	fresh verdict = iota
	duplicate
	late // below what is remembered: new or not, nobody can tell
)

// window remembers which batches of one epoch were taken: high, and the 1,024 up to it as a bitmap in which batch n has bit n
// mod 1,024.
type window struct {
	epoch uint64
	high  uint64
	bits  [windowWords]uint64
}

func (w *window) check(seq uint64) verdict {
	switch {
	case seq > w.high:
		return fresh
	case w.high-seq >= windowBatches:
		return late
	case w.bits[seq%windowBatches/64]>>(seq%64)&1 == 1:
		return duplicate
	}
	return fresh
}

// mark is for a batch that check calls fresh.
func (w *window) mark(seq uint64) {
	if seq > w.high {
		if seq-w.high >= windowBatches {
			clear(w.bits[:])
		} else {
			for n := w.high + 1; n < seq; n++ {
				w.bits[n%windowBatches/64] &^= 1 << (n % 64)
			}
		}
		w.high = seq
	}
	w.bits[seq%windowBatches/64] |= 1 << (seq % 64)
}

// watermarks are the windows of a partition's agents, the oldest epoch of each first.
type watermarks struct {
	agents map[string]*agentMarks
	clock  uint64
}

type agentMarks struct {
	heard   uint64 // order of the last record, for eviction
	windows []*window
}

func newWatermarks() watermarks { return watermarks{agents: map[string]*agentMarks{}} }

func (m *watermarks) check(agent string, epoch, seq uint64) verdict {
	a := m.agents[agent]
	if a == nil {
		return fresh
	}
	i, ok := slices.BinarySearchFunc(a.windows, epoch, func(w *window, e uint64) int { return cmp.Compare(w.epoch, e) })
	switch {
	case ok:
		return a.windows[i].check(seq)
	case i == 0 && len(a.windows) == maxEpochs:
		return late
	}
	return fresh
}

// mark is for a batch that check calls fresh.
func (m *watermarks) mark(agent string, epoch, seq uint64) {
	a := m.agents[agent]
	if a == nil {
		m.makeRoom()
		a = &agentMarks{}
		m.agents[agent] = a
	}
	m.clock++
	a.heard = m.clock
	i, ok := slices.BinarySearchFunc(a.windows, epoch, func(w *window, e uint64) int { return cmp.Compare(w.epoch, e) })
	if !ok {
		a.windows = slices.Insert(a.windows, i, &window{epoch: epoch})
		if len(a.windows) > maxEpochs {
			a.windows = slices.Delete(a.windows, 0, 1)
			i--
		}
	}
	a.windows[i].mark(seq)
}

// makeRoom forgets the agent that was silent longest.
func (m *watermarks) makeRoom() {
	if len(m.agents) < maxAgents {
		return
	}
	var name string
	oldest := ^uint64(0)
	for n, a := range m.agents {
		if a.heard < oldest {
			name, oldest = n, a.heard
		}
	}
	delete(m.agents, name)
}
