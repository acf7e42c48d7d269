// Package coverage knows how much of what each process moved was seen.
//
// Three sources meet here, by process (tgid and start time):
//
//	the kernel  ─ Row: bytes in TLS and how many were decoded ─▶ ┌───────┐
//	flow        ─ Told: calls told, calls lost ────────────────▶ │ Table │ ─▶ Rows, Counts (health)
//	target, origin ─ Facts: name, place, reason ───────────────▶ └───────┘ ─▶ Share (each call's Peer.coverage)
//
// Bytes are TCP payload of sockets that carry TLS records, both directions, since the process was first seen; record
// headers and handshakes are part of them. Decoded are those on connections whose plain bytes are read. Bytes of QUIC
// are UDP payload and stand apart: none of them is decoded. Unbound are plain bytes whose socket is unknown.
//
// What the figures do not cover: plain protocols other than HTTP; connections that ended before the agent began; bytes
// that no socket hook of the kernel rung in use shows; a decoded byte may still be of a protocol that is not read. Calls
// are counted where they were told or are known to be lost (agent/flow says when that is exact).
//
// A process's life:
//
//	first bytes or call ─▶ running ──the kernel's last row──▶ ended ──10 minutes, or 256 others──▶ forgotten
//	                          └─ known by its calls alone: 10 minutes of silence, or 4,096 others ────▲
//
// Reasons are facts about a running process, so they have to be found while it runs. One that ends within the second in
// which it moved its first bytes may have none, and says so. Totals are kept apart from processes: what is forgotten
// stays in the sums. A Table is safe for concurrent use: the pipeline tells and asks, another goroutine updates.
package coverage

import (
	"math"
	"sync"
	"time"
)

// Process names a process for good.
type Process struct {
	TGID  uint32
	Start time.Duration // since boot
}

// Row is what the kernel counted for a process since it first saw it.
type Row struct {
	Process
	Cgroup  uint64 // cgroup v2 id
	Comm    string // the kernel's name of it, for where nobody looked while it ran
	TLS     uint64 // bytes
	Decoded uint64 // of TLS
	Unbound uint64 // plain bytes
	QUIC    uint64 // bytes
	KTLS    bool   // the kernel encrypts for it
	Ended   bool   // this is the last row
}

// Facts are what is known of a process besides figures. Empty ones are unknown.
type Facts struct {
	Name      string // process.name
	Container string // container.id
	PodUID    string // k8s.pod.uid
}

// figures are bytes.
type figures struct{ tls, decoded, unbound, quic uint64 }

func (f figures) plus(g figures) figures {
	return figures{f.tls + g.tls, f.decoded + g.decoded, f.unbound + g.unbound, f.quic + g.quic}
}

func (f figures) minus(g figures) figures {
	return figures{f.tls - g.tls, f.decoded - g.decoded, f.unbound - g.unbound, f.quic - g.quic}
}

func (f figures) undecoded() uint64 { return f.tls - min(f.tls, f.decoded) }

// entry is one process.
type entry struct {
	Process
	cgroup    uint64
	comm      string
	kernel    bool    // the kernel has or had rows of it
	ktls      bool    // the kernel encrypts for it
	before    figures // of rows that the kernel had forgotten and begun again
	row       figures // the kernel's newest
	undecoded uint64  // at the last update, for settled
	settled   uint64  // bytes that were undecoded at the last update and at the one before
	calls     uint64
	lost      uint64
	facts     Facts
	described time.Duration // when facts were last given, since boot
	known     bool          // they were given at all
	reason    string
	listed    time.Duration // when the kernel last had a row
	used      time.Duration // when it last moved or told anything
	ended     time.Duration // 0 = runs
	final     bool          // the kernel said so
}

func (e *entry) bytes() figures { return e.before.plus(e.row) }

// Table is the account of all processes.
type Table struct {
	mu      sync.Mutex
	entries map[Process]*entry
	callers int // entries known by their calls alone
	now     time.Duration
	total   figures
	evicted uint64
}

// New makes an empty Table.
func New() *Table { return &Table{entries: map[Process]*entry{}} }

// Update takes what the kernel has now, at a time since boot.
func (t *Table) Update(now time.Duration, rows []Row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = max(t.now, now)
	for i := range rows {
		t.merge(&rows[i])
	}
	t.forget()
}

// merge takes a row, and adds what has grown to the totals.
func (t *Table) merge(r *Row) {
	e := t.entries[r.Process]
	if e == nil {
		e = &entry{Process: r.Process, used: t.now}
		t.entries[r.Process] = e
	} else if !e.kernel {
		t.callers--
	}
	e.kernel, e.cgroup, e.ktls, e.listed = true, r.Cgroup, e.ktls || r.KTLS, t.now
	e.comm = r.Comm
	now := figures{r.TLS, min(r.Decoded, r.TLS), r.Unbound, r.QUIC}
	old := e.row
	if now.tls < old.tls || now.unbound < old.unbound || now.quic < old.quic {
		e.before, old = e.before.plus(old), figures{} // the kernel had forgotten the process and began again from 0
	}
	e.row = now
	t.total = t.total.plus(now).minus(old)
	if now != old {
		e.used = t.now
	}
	e.settled = min(e.undecoded, e.bytes().undecoded())
	e.undecoded = e.bytes().undecoded()
	switch {
	case r.Ended:
		// A socket may outlive its process: what it moves from here on is counted from 0.
		e.before, e.row, e.final = e.bytes(), figures{}, true
		if e.ended == 0 {
			e.ended = max(t.now, 1)
		}
	case !e.final:
		e.ended = 0
	}
}

// Told takes what became of calls at a process's ends of connections.
func (t *Table) Told(p Process, cgroup uint64, calls, lost uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[p]
	if e == nil {
		if t.callers >= maxCallers {
			t.evictCaller()
		}
		e = &entry{Process: p, cgroup: cgroup}
		t.entries[p] = e
		t.callers++
	}
	e.calls += calls
	e.lost += lost
	e.used = t.now
}

// Share is how much of a process's traffic was seen so far: the decoded share of its TLS bytes times the share of its
// calls that were not lost, in steps of 0.001, rounded down. It is unknown where nothing of the process was measured yet.
// Bytes count as undecoded once they are so at two updates in a row: those of a connection that has just begun are
// not decoded yet.
func (t *Table) Share(p Process) (share float64, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[p]
	if e == nil {
		return 0, false
	}
	tls, calls := e.bytes().tls, e.calls+e.lost
	if tls+calls == 0 {
		return 0, false
	}
	share = 1
	if tls > 0 {
		share = float64(tls-e.settled) / float64(tls)
	}
	if calls > 0 {
		share *= float64(e.calls) / float64(calls)
	}
	return math.Floor(share*1000+1e-9) / 1000, true // 0.3 times 1000 is a little less than 300
}

// Counts yields the totals over all processes since the start, forgotten ones included.
func (t *Table) Counts(yield func(name string, value uint64)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	yield("tls_bytes", t.total.tls)
	yield("decoded_bytes", t.total.decoded)
	yield("unbound_bytes", t.total.unbound)
	yield("quic_bytes", t.total.quic)
	yield("processes", uint64(len(t.entries)))
	yield("processes_evicted", t.evicted)
}
