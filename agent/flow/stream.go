package flow

import (
	"bytes"
	"net/netip"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/parse"
)

// stream is a Stream on its way.
type stream struct {
	Stream
	proto    *protocol
	index    int // of proto in the table
	parser   parse.Parser
	requests chunk.Direction
	dir      [2]track
	last     time.Duration // newest chunk
	passed   uint64        // bytes that told no protocol
	opened   bool          // had a parser
	again    bool          // and lost it
	muted    bool
	closing  bool
	resting  time.Duration // when it was put on the list of those that may rest; 0 = it is not there
	final    chunk.Chunk   // the Close, while closing
	counted  parse.Counts
	settled  uint64    // requests that parsers before this one told of, where the kernel counts each
	before   [2]uint32 // heads on connections before this one
	told     Told      // since Settled was last called
	buffered int

	in         *list
	prev, next *stream
}

// track is where one direction stands.
type track struct {
	next      uint64 // offset of the next byte
	heads     uint32 // that the kernel counted up to there
	gapBytes  uint64 // lost before the protocol was known
	gapHeads  uint32
	shedHeads uint32 // of responses left out before the protocol was known: they prove no requests, but are counted
	held      []byte // too few to tell the protocol
	heldAt    time.Duration
}

// headsBefore is how many messages began between what was seen and c.
func (t *track) headsBefore(c *chunk.Chunk) uint32 {
	before := c.Heads
	if c.Flags.Has(chunk.Head) && before > 0 {
		before--
	}
	if before <= t.heads {
		return 0
	}
	return before - t.heads
}

// requestsIn is how many requests of HTTP/2 begin in c: the kernel finds each, and marks only what HTTP/1 begins with.
// Behind a gap headsBefore has them.
func (t *track) requestsIn(c *chunk.Chunk) uint32 {
	if c.Flags.Has(chunk.Head) || c.Offset > t.next || c.Heads <= t.heads {
		return 0
	}
	return c.Heads - t.heads
}

func (t *track) advance(c *chunk.Chunk) {
	t.next = max(t.next, c.Offset+max(uint64(c.Length), uint64(len(c.Data))))
	t.heads = max(t.heads, c.Heads)
}

// side tells what flows in direction d.
func (s *stream) side(d chunk.Direction) parse.Side {
	if d == s.requests {
		return parse.Requests
	}
	return parse.Responses
}

// learn takes what newer chunks know better: a socket may be found after the first bytes, and the last.
func (f *Flow) learn(s *stream, c *chunk.Chunk) {
	s.last = max(s.last, c.Time)
	if c.Flags.Has(chunk.Unbound) {
		s.Owner, s.Layer = c.Owner, c.Layer
		return
	}
	if s.Conn != c.Conn && s.Conn != 0 && c.Conn != 0 {
		f.move(s)
	}
	s.Owner, s.Layer = c.Owner, c.Layer
	if c.Flags.Has(chunk.Fresh) && s.Unbound {
		s.Fresh = true // a handshake inside the first write: the kernel knows only now that nothing went before
	}
	s.Conn, s.ConnBirth, s.Unbound = c.Conn, c.ConnBirth, false
	if c.Local.IsValid() {
		s.Local, s.Remote = c.Local, c.Remote
	}
}

// move ends what s was on its old connection. Offsets and heads go on, so that nothing is counted twice.
func (f *Flow) move(s *stream) {
	f.counts.Moved++
	f.park(s)
	if s.muted {
		return
	}
	f.loseUntold(s)
	f.tell(s)
	s.proto, s.Protocol, s.passed = nil, "", 0
	s.before = [2]uint32{s.dir[0].heads, s.dir[1].heads}
	s.Local, s.Remote = netip.AddrPort{}, netip.AddrPort{}
	s.Fresh, s.Gapped, s.Client = false, true, false
}

// sniff looks for the protocol where a buffer begins.
func (f *Flow) sniff(s *stream, d chunk.Direction, data []byte, at time.Duration) {
	if s.proto != nil {
		f.open(s)
		f.feed(s, d, data, at)
		return
	}
	t := &s.dir[d]
	first := s.Fresh && t.gapBytes == 0 && t.next == uint64(len(t.held))
	if len(t.held) == 0 {
		t.heldAt = at
	} else {
		data = append(t.held, data...)
	}
	maybe := false
	for i, p := range protocols() {
		for _, side := range []parse.Side{parse.Requests, parse.Responses} {
			switch p.sniff(side, data) {
			case parse.Yes:
				f.decide(s, i, d, side, data)
				return
			case parse.Maybe:
				maybe = true
			}
		}
	}
	if maybe && len(data) <= heldBytes {
		t.held = bytes.Clone(data)
		return
	}
	t.held = nil
	t.gapBytes += uint64(len(data))
	s.passed += uint64(len(data))
	if first || s.passed > undecidedBytes {
		f.counts.UnknownProtocol++
		f.loseUntold(s) // what the gaps hold was HTTP to the kernel
		f.mute(s)
	}
}

// decide makes the parser, and tells it what went before.
func (f *Flow) decide(s *stream, index int, d chunk.Direction, side parse.Side, data []byte) {
	row := protocols()[index]
	s.proto, s.index, s.Protocol = &row, index, row.name
	if s.requests = d; side == parse.Responses {
		s.requests = 1 - d
	}
	s.Client = s.requests == chunk.Egress
	s.settled = uint64(s.before[s.requests])
	f.open(s)
	if !s.Fresh {
		f.counts.LateJoin++
	}
	other := &s.dir[1-d]
	held := other.held
	other.held, s.dir[d].held = nil, nil
	if len(held) > 0 {
		f.feed(s, 1-d, held, other.heldAt)
	}
	if s.parser != nil {
		f.feed(s, d, data, s.last)
	}
}

// open gives s a parser. A stream that had one before goes on as one that was joined late.
func (f *Flow) open(s *stream) {
	late := !s.Fresh || s.opened
	s.again = s.opened
	s.opened, s.counted = true, parse.Counts{}
	s.parser = s.proto.make(f.cfg.Limits, late, func(x *parse.Exchange) {
		f.counts.Calls++
		s.told.Calls++
		x.Gap = x.Gap && s.Gapped // else a cap alone cut it short
		x.LateJoin = x.LateJoin && (s.again || !s.Fresh)
		f.cfg.Emit(&s.Stream, x)
	})
	for d := range s.dir {
		t := &s.dir[d]
		if t.gapBytes > 0 {
			s.parser.Gap(s.side(chunk.Direction(d)), t.gapBytes, t.gapHeads+t.shedHeads, s.last)
			f.mayRest(s)
		}
		t.gapBytes, t.gapHeads, t.shedHeads = 0, 0, 0
	}
}

// account adds what the parser counted since the last time.
func (f *Flow) account(s *stream) {
	if s.parser == nil {
		return
	}
	f.add(s, s.parser.Counts())
	b := s.parser.Buffered()
	f.buffered += b - s.buffered
	s.buffered = b
	for f.buffered > f.cfg.MaxBuffered && f.active.last != nil {
		f.counts.Evicted++
		f.park(f.active.last)
	}
}

// add takes what a parser counted up to now.
func (f *Flow) add(s *stream, n parse.Counts) {
	old := s.counted
	if n == old {
		return
	}
	s.counted = n
	unanswered := n.Unanswered - old.Unanswered
	if s.closing && s.final.Flags.Has(chunk.Shed) {
		f.counts.LostShed += unanswered // the answers are not read any more
		f.lose(s, s.index, unanswered)
	} else {
		f.counts.Unanswered += unanswered
		s.told.Unanswered += unanswered
	}
	f.counts.Malformed += n.Malformed - old.Malformed
	f.counts.LostShed += n.LostShed - old.LostShed
	f.lose(s, s.index, n.Lost-old.Lost)
}

// lose counts calls that can't be told any more. index is of the protocol, -1 where it is unknown.
func (f *Flow) lose(s *stream, index int, n uint64) {
	s.told.Lost += n
	if s.Client {
		f.counts.LostClient += n
	} else {
		f.counts.LostServer += n
	}
	if index < 0 {
		f.counts.LostUnknown += n
	} else {
		f.counts.LostBy[index] += n
	}
}
