package owner

import (
	"cmp"
	"slices"
	"time"
)

const (
	// windowBatches below the highest number are remembered one by one.
	windowBatches = 1024
	windowWords   = windowBatches / 64
	// maxWindows of one partition bound its memory and its commits. At 300 bytes or less each (names have at most 128) that is
	// 1.2 MB, a fifth of what a commit may hold; a usual one takes 50 to 90.
	maxWindows = 4096
	// newestWindows of an agent are kept for staleMillis, the others for recentMillis.
	newestWindows = 2
	busyMillis    = int64(time.Hour / time.Millisecond)
	recentMillis  = 24 * busyMillis
	// The collector refuses calls that are older than 30 days, so no batch comes again after that.
	staleMillis = 31 * recentMillis
)

// verdict on a record's number.
type verdict uint8

const (
	fresh verdict = iota
	duplicate
	late // below the bitmap of its epoch: new or not, nobody can tell
)

// window remembers which batches of one epoch were taken: high, and the 1,024 up to it as a bitmap in which batch n has bit n
// mod 1,024.
type window struct {
	epoch uint64
	high  uint64
	heard int64 // Unix milliseconds, the journal's
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

// watermarks are the windows of a partition: one for each epoch of each agent. A name is no sender: the pods of a DaemonSet
// may share one certificate, then their epochs come interleaved, and all of them must be remembered.
type watermarks struct {
	agents map[string][]*window // by epoch
	count  int                  // of windows
	now    int64                // Unix milliseconds of the newest record: time is the journal's, a second reading finds the same
}

func newWatermarks() watermarks { return watermarks{agents: map[string][]*window{}} }

func (m *watermarks) check(agent string, epoch, seq uint64) verdict {
	windows := m.agents[agent]
	if i, ok := search(windows, epoch); ok {
		return windows[i].check(seq)
	}
	return fresh
}

// mark is for a batch that check calls fresh; the journal stored it at the time given.
func (m *watermarks) mark(agent string, epoch, seq uint64, at time.Time) {
	if m.now == 0 {
		// An earlier version stored no times.
		for _, windows := range m.agents {
			for _, w := range windows {
				w.heard = at.UnixMilli()
			}
		}
	}
	m.now = max(m.now, at.UnixMilli())
	i, ok := search(m.agents[agent], epoch)
	if !ok {
		if m.count >= maxWindows {
			m.makeRoom()
			i, _ = search(m.agents[agent], epoch)
		}
		m.agents[agent] = slices.Insert(m.agents[agent], i, &window{epoch: epoch})
		m.count++
	}
	w := m.agents[agent][i]
	w.heard = m.now
	w.mark(seq)
}

func search(windows []*window, epoch uint64) (int, bool) {
	return slices.BinarySearchFunc(windows, epoch, func(w *window, e uint64) int { return cmp.Compare(w.epoch, e) })
}

// makeRoom forgets the window that was silent longest. Where even that one spoke within the last hour, the agent with the most
// windows gives one up, so that nobody can drive out the others by starting over and over.
func (m *watermarks) makeRoom() {
	most, from, oldest := "", "", (*window)(nil)
	for name, windows := range m.agents {
		if n := len(windows) - len(m.agents[most]); n > 0 || n == 0 && name < most {
			most = name
		}
		w := silent(windows)
		if oldest == nil || w.heard < oldest.heard || w.heard == oldest.heard && name < from {
			from, oldest = name, w
		}
	}
	if m.now-oldest.heard < busyMillis {
		from, oldest = most, silent(m.agents[most])
	}
	m.keep(from, func(w *window) bool { return w != oldest })
}

// silent is the window not heard of for longest, the lowest epoch of equals.
func silent(windows []*window) *window {
	return slices.MinFunc(windows, func(a, b *window) int { return cmp.Compare(a.heard, b.heard) })
}

// keep leaves an agent the windows for which fn holds.
func (m *watermarks) keep(agent string, fn func(*window) bool) {
	windows := m.agents[agent]
	m.count -= len(windows)
	windows = slices.DeleteFunc(windows, func(w *window) bool { return !fn(w) })
	m.count += len(windows)
	if m.agents[agent] = windows; len(windows) == 0 {
		delete(m.agents, agent)
	}
}

// forget drops what nobody will ask for: windows silent for a day but for the newest two of their agent, and those two when
// the collector would refuse their calls as too old.
func (m *watermarks) forget() {
	for agent, windows := range m.agents {
		if m.now-silent(windows).heard < recentMillis {
			continue
		}
		order := slices.Clone(windows)
		slices.SortStableFunc(order, func(a, b *window) int { return cmp.Compare(b.heard, a.heard) })
		last := order[min(len(order), newestWindows)-1].heard
		m.keep(agent, func(w *window) bool {
			age := m.now - w.heard
			return age < recentMillis || w.heard >= last && age < staleMillis
		})
	}
}
