// Package mask takes the values out of a recording and keeps what makes it useful: a replay of the masked recording
// gives calls of the same routes, statuses, field names, types, data classes and credential schemes.
//
//	Feed(chunk) ─▶ copy ─▶ queue ─────────────────────────▶ emit, in order
//	                 └▶ half of its stream: head ─▶ body ─▶ head …  writes dummies of the same length into the copy
//
// What a masked recording may hold is what a Call may hold (see proto/segment): names, path segments that are no
// secret, a closed list of header values. Every other value becomes a dummy of its own length and shape.
// HTTP/1 heads and bodies are masked when they are complete, so chunks wait in the queue until then, at most holdTime
// and holdBytes; what is cut short by that becomes 'x'. HTTP/2 header blocks are encoded anew, so that the masked
// stream has offsets of its own. Whatever is not understood, or follows a gap, becomes 'x' until a message head begins
// where a chunk says so.
package mask

import (
	"bytes"
	"slices"
	"time"

	"github.com/spile/spile/agent/chunk"
)

// Bounds of what waits.
const (
	holdTime  = 3 * time.Second
	holdBytes = 8 << 20
	maxHead   = 64 << 10
	maxBody   = 256 << 10
	maxStream = 16384 // streams that are followed at once
)

// Masker masks a recording. It is used by one goroutine.
type Masker struct {
	emit    func(*chunk.Chunk)
	streams map[chunk.StreamID]*stream
	queue   []*held
	bytes   int
}

// held is a chunk on its way out.
type held struct {
	chunk.Chunk
	open int // units that still have to write into it
}

// stream is both directions of one plaintext stream.
type stream struct {
	halves [2]half
	http2  bool
	opaque bool     // switched to another protocol
	asked  []string // methods of requests that have no response yet
}

// half is one direction.
type half struct {
	next    uint64 // offset of the next byte
	out     uint64 // HTTP/2: offset of the next masked byte
	begun   bool
	state   state
	left    uint64 // bytes of the body or chunk to come
	unit    unit
	content content // what the body is
	h2      *frames
}

// unit is a run of bytes that is masked as a whole. Its pieces lie in held chunks.
type unit struct {
	buf    []byte
	pieces [][]byte
	holds  []*held
}

// New returns a Masker that hands masked chunks to emit, in the order in which they were fed. An emitted chunk belongs
// to the receiver.
func New(emit func(*chunk.Chunk)) *Masker {
	return &Masker{emit: emit, streams: make(map[chunk.StreamID]*stream)}
}

// Feed takes the next chunk of any stream. It keeps no reference to it.
func (m *Masker) Feed(c *chunk.Chunk) {
	h := &held{Chunk: *c}
	h.Data = bytes.Clone(c.Data)
	m.queue = append(m.queue, h)
	m.bytes += len(h.Data)
	s := m.streams[c.Stream]
	if s == nil {
		if len(m.streams) >= maxStream {
			m.forget()
		}
		s = &stream{}
		m.streams[c.Stream] = s
	}
	switch {
	case c.Kind == chunk.Close:
		if s.close(h) {
			delete(m.streams, c.Stream)
		}
	case c.Kind == chunk.Data && c.Direction <= chunk.Egress:
		s.feed(h)
	default:
		blank(h.Data)
	}
	m.drain(c.Time)
}

// Flush masks what is incomplete and emits all that waits.
func (m *Masker) Flush() {
	m.settle(nil)
	m.drain(0)
}

// drain emits from the front of the queue what is masked, and settles what has waited for too long.
func (m *Masker) drain(now time.Duration) {
	for len(m.queue) > 0 {
		h := m.queue[0]
		if h.open > 0 {
			if now-h.Time < holdTime && m.bytes < holdBytes {
				return
			}
			m.settle(h)
		}
		m.queue[0] = nil
		m.queue = m.queue[1:]
		m.bytes -= len(h.Data)
		out := h.Chunk
		m.emit(&out)
	}
	m.bytes = 0
}

// settle ends the units that still have to write into h; all of them where h is nil.
func (m *Masker) settle(h *held) {
	for _, s := range m.streams {
		for i := range s.halves {
			if h == nil || slices.Contains(s.halves[i].unit.holds, h) {
				s.halves[i].cut()
			}
		}
	}
}

// forget drops all streams: a flood of them must not cost memory. Their next chunks are late joins.
func (m *Masker) forget() {
	m.settle(nil)
	clear(m.streams)
}

func (s *stream) feed(h *held) {
	f := &s.halves[h.Direction]
	gap := f.begun && h.Offset != f.next
	late := !f.begun && h.Offset != 0 && !h.Flags.Has(chunk.Head)
	f.begun = true
	f.next = h.Offset + uint64(h.Length)
	if gap || late {
		f.lose(h.Flags.Has(chunk.Head) && !s.http2)
	}
	if s.opaque {
		blank(h.Data)
	} else if s.http2 || s.sniff2(f, h) {
		s.feed2(f, h)
	} else {
		s.feed1(f, h)
	}
	if len(h.Data) < int(h.Length) && f.h2 == nil {
		f.lose(false)
	}
}

// close ends the directions whose bytes have all come, and reports whether both have: the end of a stream travels on a
// way of its own and may overtake data. The offsets of the end become those of the masked stream.
func (s *stream) close(h *held) bool {
	done := true
	for i, end := range [2]*uint64{chunk.Ingress: &h.PeerOff, chunk.Egress: &h.Offset} {
		f := &s.halves[i]
		missing := uint64(0)
		if f.begun && f.next < *end {
			missing, done = *end-f.next, false
		} else {
			f.cut()
		}
		if s.http2 {
			*end = f.out + missing
		}
	}
	return done
}

// lose ends what was open: bytes are missing. A head may follow at once where the chunk says so.
func (f *half) lose(head bool) {
	f.cut()
	f.state = opaque
	if head {
		f.state = inHead
	}
	if f.h2 != nil {
		f.h2.lost = true
	}
}

// take adds the first n bytes of b, which lie in h, to the unit.
func (u *unit) take(h *held, b []byte) {
	u.buf = append(u.buf, b...)
	u.pieces = append(u.pieces, b)
	u.holds = append(u.holds, h)
	h.open++
}

// done writes the masked bytes back and lets go of the chunks.
func (u *unit) done() {
	at := 0
	for _, p := range u.pieces {
		at += copy(p, u.buf[at:])
	}
	for _, h := range u.holds {
		h.open--
	}
	clear(u.buf)
	clear(u.pieces)
	clear(u.holds)
	u.buf, u.pieces, u.holds = u.buf[:0], u.pieces[:0], u.holds[:0]
}

// blank is what becomes of bytes that nobody understands.
func blank(b []byte) {
	for i := range b {
		b[i] = 'x'
	}
}
