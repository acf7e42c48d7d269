// Package join makes one Call of the two sightings of a call whose both ends ran on this host.
//
//	client end ─▶ Add ─┐  same TCP connection,
//	                   ├─ same place on it ─────▶ one Call, observed "both"
//	server end ─▶ Add ─┘
//	one end only ──────▶ after Window, or at once where the other end is not watched ─▶ Call as it is
//
// The server's record is the base: its id, time, contents and credentials are what the service saw. From the client
// come what the server cannot know: who asked (source peer) and, where the server end lacks them, TLS facts. Two
// records are merged only when nothing else could be meant:
//
//   - the connection is the same: client and server addresses match crosswise. Loopback addresses name a connection only
//     within one network namespace; two namespaces both use 127.0.0.1.
//   - the place on it is the same. HTTP/2 numbers its streams. HTTP/1 requests are numbered by each end; where both
//     ends saw the connection from its first byte the numbers agree. Where one did not, or bytes were lost, a pair must
//     overlap in time by more than half of the server's span, carry a request of the same size, and no other sighting at
//     either end may fit as well.
//   - method, path and status are equal; a status that one end has not read is any. The size is not asked of numbered requests: a server may answer before it has
//     read the body, and then has seen less of it than the client sent.
//
// What is lost: nothing. Every sighting is emitted, alone or merged, once. When Max sightings wait, the oldest is
// emitted alone and counted as overflow.
package join

import (
	"net/netip"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// Config bounds a Joiner.
type Config struct {
	Window time.Duration // how long a sighting waits for the other end; 0 means 2 s
	Max    int           // sightings that wait at once; 0 means 65,536
	Emit   func(*v1.Call)
	Spare  func(*v1.Call) // gets the one of two merged calls that is not emitted; nil = nobody wants it
}

// Sighting is a call as one end saw it.
type Sighting struct {
	Call          *v1.Call
	Client        bool           // this end is the client
	Source        netip.AddrPort // of the client, as this end knows it
	Destination   netip.AddrPort // of the server, as this end knows it
	NetNS         uint32
	Start, End    time.Duration // of the exchange, since boot
	StreamOrdinal uint64        // HTTP/2: stream id; else the request's ordinal at this end, from 0
	Numbered      bool          // this end saw its stream from the first byte and missed none: StreamOrdinal counts every request
	PeerWatched   bool          // the other end's process is watched on this host
}

// Counts is a Joiner's account: Seen = 2*Joined + Alone + Waiting.
type Counts struct {
	Seen     uint64
	Joined   uint64 // pairs
	Alone    uint64 // emitted as they were, for any reason
	Overflow uint64 // of Alone: pushed out before their window ended
	Waiting  uint64
}

// maxPerEnd bounds what one connection may hold, so that a search stays short.
const maxPerEnd = 1024

// Joiner holds sightings until their other end comes. It is used by one goroutine.
type Joiner struct {
	config Config
	conns  map[connection]*waiting
	oldest *entry // queue in order of arrival
	newest *entry
	now    time.Duration
	counts Counts

	arrived entry // the sighting that Add looks at
}

// connection names a TCP connection on this host.
type connection struct {
	source, destination netip.AddrPort
	netns               uint32 // 0 unless an address is loopback
}

// waiting are the sightings of one connection, by end, each in order of arrival.
type waiting struct {
	client, server []*entry
}

type entry struct {
	Sighting
	conn       connection
	added      time.Duration
	prev, next *entry
}

// New returns a Joiner. Emit must not be nil.
func New(c Config) *Joiner {
	if c.Window <= 0 {
		c.Window = 2 * time.Second
	}
	if c.Max <= 0 {
		c.Max = 65536
	}
	return &Joiner{config: c, conns: make(map[connection]*waiting)}
}

// Counts tells what became of the sightings so far.
func (j *Joiner) Counts() Counts { return j.counts }

// Add takes a sighting. The other end's, if it waits, is merged with it; else it waits, or is emitted at once.
func (j *Joiner) Add(s Sighting) {
	j.counts.Seen++
	j.now = max(j.now, s.End)
	// Most sightings wait for nobody: one that does moves to memory of its own in hold.
	e := &j.arrived
	*e = entry{Sighting: s, conn: connectionOf(s), added: j.now}
	defer func() { j.arrived.Call = nil }()
	if s.Call == nil || !e.conn.known() {
		j.alone(e)
		return
	}
	w := j.conns[e.conn]
	if w == nil {
		if !s.PeerWatched {
			j.alone(e)
			return
		}
		w = &waiting{}
		j.conns[e.conn] = w
	}
	if other := w.match(e); other != nil {
		j.merge(e, other)
		return
	}
	if !s.PeerWatched {
		j.alone(e)
		return
	}
	if j.counts.Waiting >= uint64(j.config.Max) {
		j.counts.Overflow++
		j.release(j.oldest)
	}
	if end := w.end(s.Client); len(*end) >= maxPerEnd {
		j.counts.Overflow++
		j.release((*end)[0])
	}
	j.conns[e.conn] = w // a release may have dropped it
	j.hold(w, e)
}

// Tick emits what has waited for the whole window at a time since boot.
func (j *Joiner) Tick(now time.Duration) {
	j.now = max(j.now, now)
	for j.oldest != nil && j.now-j.oldest.added >= j.config.Window {
		j.release(j.oldest)
	}
}

// Flush emits all that waits.
func (j *Joiner) Flush() {
	for j.oldest != nil {
		j.release(j.oldest)
	}
}
