// Package flow turns chunks into streams and gives each stream the parser of its protocol.
//
// A stream is two directions of plain bytes. Which one carries requests is decided by content, never by port:
//
//	            a buffer begins a message of a protocol
//	undecided ───────────────────────────────────────────▶ parsed ──Close──▶ gone
//	    │ │                                                │   ▲
//	    │ └──no protocol begins like that──▶ muted ◀─switch┘   │ next chunk
//	    │                                      │     idle, evicted
//	    └──────────── Close ──▶ gone ◀─Close───┘        ▼      │
//	                              ◀──────Close────── parked ───┘
//
// Responses that are left out on purpose (Shed) are no gaps: parsers are told that they passed, and their calls are handed
// on without them. A close that says the same (the rest of the connection is not read) leaves out what is still open.
//
// Offsets tell what is missing: a jump is a gap, and the kernel's count of message heads tells how many messages began
// in it. Bytes that passed unseen inside a chunk are a gap behind its data. What comes twice is dropped and counted.
// A close whose final offsets lie beyond what was seen waits a moment for chunks that are still on their way.
//
// After a gap, a second of silence says that a body whose end nobody saw has ended.
//
// A parked stream keeps only its offsets and head counts, so that its calls are still counted when it goes on; it is
// then joined late. A muted stream is remembered so that nothing it says starts a new one.
//
// Each stream has an account: the sum of what Settled is told is what became of every request on it. It is exact where
// the kernel's count of heads is: for HTTP/2 that was seen from its first byte, always; joined late, from the request on
// at which the kernel finds its frames. For HTTP/1 a buffer counts for one head, if it begins with one. So requests
// that a client pipelines in one write and that are lost together are known by their answers, if those were not
// written together too and enough was read to tell a pipeline; a head whose first write holds less than its method and a space, once lost, is not known; and
// a write of a body that begins like a head, once lost, counts as one. What is seen is never counted by the kernel's
// number.
//
// A TLS stream may be told apart before its socket is known (Unbound). Its calls have the peer of the moment at which
// they are complete; what ends before the socket is found has none. A stream that moves to another connection is settled
// with the old one and goes on as one joined late: nothing that was open is taken along.
//
// Flow owns the streams and parsers; an exchange is valid until Emit returns. One goroutine uses a Flow. Time is the
// time in the chunks, and what Tick is told.
package flow

import (
	"errors"
	"net/netip"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/parse"
)

// Config is what a Flow needs from outside. Zero numbers take the defaults.
type Config struct {
	Limits      parse.Limits
	Emit        func(*Stream, *parse.Exchange)
	Settled     func(*Stream, Told)  // what became of calls of this stream since it was last told
	Mute        func(chunk.StreamID) // no more data of this stream is wanted
	MaxStreams  int                  // with a parser; as many again are remembered without one. 65,536
	MaxBuffered int                  // bytes that all parsers hold together. 256 MiB
	Idle        time.Duration        // after which a silent stream is parked. 10 minutes
}

const (
	defaultStreams  = 65536
	defaultBuffered = 256 << 20
	defaultIdle     = 10 * time.Minute

	// straggle is how long a close waits for chunks that took another way: the kernel has a ring of its own for closes.
	straggle = 250 * time.Millisecond
	// rest is how long a stream with a gap is silent before what waits for its next bytes is handed out.
	rest = time.Second
	// undecidedBytes may pass on a stream that was joined late before it is muted: the rest of one large body.
	undecidedBytes = 64 << 20
	// heldBytes of one direction wait while too few have come to tell the protocol.
	heldBytes = 256
)

// Stream is what is known about the two ends of a stream.
type Stream struct {
	ID        chunk.StreamID
	Conn      chunk.ConnID
	ConnBirth time.Duration // since boot
	Local     netip.AddrPort
	Remote    netip.AddrPort
	Owner     chunk.Owner
	Layer     chunk.Layer
	Protocol  string // the parser's: "http/1", "http/2"
	Fresh     bool   // seen from its first byte
	Gapped    bool   // bytes of it were missed so far; what a cap leaves out of a body is not missed
	Unbound   bool   // no socket is known
	Client    bool   // this end sent the requests
}

// Told is what became of requests on a stream: those sent are the sum of the three.
type Told struct {
	Calls      uint64 // handed on
	Lost       uint64 // to gaps
	Unanswered uint64 // they never got a response
}

// Flow follows streams.
type Flow struct {
	cfg      Config
	streams  map[chunk.StreamID]*stream
	active   list // with a parser, or undecided; least recently used last
	parked   list // muted, idle or evicted
	closing  []*stream
	resting  []*stream // after a gap, until they are silent
	buffered int
	now      time.Duration
	counts   Counts
}

// New makes a Flow.
func New(cfg Config) *Flow {
	if cfg.Limits == (parse.Limits{}) {
		cfg.Limits = parse.DefaultLimits()
	}
	if cfg.MaxStreams <= 0 {
		cfg.MaxStreams = defaultStreams
	}
	if cfg.MaxBuffered <= 0 {
		cfg.MaxBuffered = defaultBuffered
	}
	if cfg.Idle <= 0 {
		cfg.Idle = defaultIdle
	}
	if cfg.Mute == nil {
		cfg.Mute = func(chunk.StreamID) {}
	}
	if cfg.Settled == nil {
		cfg.Settled = func(*Stream, Told) {}
	}
	return &Flow{cfg: cfg, streams: make(map[chunk.StreamID]*stream)}
}

// Feed takes the next chunk. It keeps no reference to it.
func (f *Flow) Feed(c *chunk.Chunk) {
	f.counts.Chunks++
	f.expire(c.Time)
	if c.Kind == chunk.Close {
		f.close(c)
		return
	}
	if c.Kind != chunk.Data || c.Direction > chunk.Egress {
		f.counts.Invalid++
		return
	}
	f.counts.Bytes += uint64(len(c.Data))
	s := f.lookup(c)
	f.learn(s, c)
	if s.muted {
		f.counts.MutedChunks++
		s.dir[c.Direction].advance(c)
		return
	}
	f.wake(s)
	f.data(s, c)
	if s.closing && s.whole() {
		f.finish(s)
		return
	}
	f.tell(s)
}

// data gives the parser what is new in c, with the gaps before and behind it.
func (f *Flow) data(s *stream, c *chunk.Chunk) {
	t := &s.dir[c.Direction]
	length := max(uint64(c.Length), uint64(len(c.Data)))
	data := c.Data
	if c.Offset < t.next {
		f.counts.Duplicates++
		seen := t.next - c.Offset
		if seen >= length {
			return
		}
		data = data[min(seen, uint64(len(data))):]
	} else if missing := c.Offset - t.next; missing > 0 {
		s.Gapped = true
		f.gap(s, c.Direction, missing, t.headsBefore(c), c.Time)
	}
	if len(data) > 0 {
		f.feed(s, c.Direction, data, c.Time)
	}
	if s.parser == nil && !s.muted {
		t.gapHeads += t.requestsIn(c)
	}
	if unseen := length - uint64(len(c.Data)); unseen > 0 {
		var heads uint32
		if len(c.Data) == 0 && c.Flags.Has(chunk.Head) {
			heads = 1
		}
		switch wanted := heads > 0 || !c.Flags.Has(chunk.Truncated) || c.Flags.Has(chunk.Fault); {
		case c.Flags.Has(chunk.Shed):
			f.counts.Shed++
			f.counts.ShedBytes += unseen
			f.leftOut(s, c.Direction, unseen, heads, c.Time)
		case !wanted && s.parser != nil && s.proto.exact:
			// Behind the cap there may be whole frames: what they answer is answered.
			f.counts.Gaps++
			f.counts.GapBytes += unseen
			f.leftOut(s, c.Direction, unseen, 0, c.Time)
		default:
			// Over the cap of a message, or over a budget: what passed is known, and nothing that was wanted is missing.
			s.Gapped = s.Gapped || wanted
			f.gap(s, c.Direction, unseen, heads, c.Time)
		}
	}
	t.advance(c)
	f.account(s)
}

// feed hands data to the parser, or to the sniffer.
func (f *Flow) feed(s *stream, d chunk.Direction, data []byte, at time.Duration) {
	if s.parser == nil {
		f.sniff(s, d, data, at)
		return
	}
	err := s.parser.Feed(s.side(d), data, at)
	switch {
	case err == nil:
		return
	case errors.Is(err, parse.ErrSwitched):
		f.counts.Switched++
	default:
		f.counts.Abandoned++
	}
	f.mute(s)
}

// gap says that bytes passed unseen.
func (f *Flow) gap(s *stream, d chunk.Direction, bytes uint64, heads uint32, at time.Duration) {
	f.counts.Gaps++
	f.counts.GapBytes += bytes
	if s.muted {
		return
	}
	if s.parser != nil {
		s.parser.Gap(s.side(d), bytes, heads, at)
		f.mayRest(s)
		return
	}
	t := &s.dir[d]
	t.gapBytes += bytes + uint64(len(t.held))
	t.gapHeads += heads
	t.held = nil
}

// leftOut says that bytes passed that were not copied on purpose. Before the protocol is known their heads are counted,
// and prove nothing that the requests do not.
func (f *Flow) leftOut(s *stream, d chunk.Direction, bytes uint64, heads uint32, at time.Duration) {
	if s.muted {
		return
	}
	if s.parser != nil {
		s.parser.Shed(s.side(d), bytes, heads, at)
		f.mayRest(s)
		return
	}
	t := &s.dir[d]
	t.gapBytes += bytes + uint64(len(t.held))
	t.shedHeads += heads
	t.held = nil
}
