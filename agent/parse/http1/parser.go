// Package http1 reads HTTP/1.0 and HTTP/1.1 (RFC 9112) from both directions of a connection, with pieces missing.
//
// Each direction is a reader of its own:
//
//	        ┌──────────────── head ◀──────────────┬──────────────┐
//	        │ length n   │ chunked   │ to the end │              │
//	        ▼            ▼           ▼            │              │
//	      body        chunkSize   untilClose      │ message done │
//	        │n read    │    ▲ └─0─▶ trailer ──────┤              │
//	        │     chunkData─┘                     │              │
//	        └─────────────────────────────────────┘              │
//	a gap in a head or in framing, or a malformed one ──▶ skip ──┘ at a buffer that begins with a head
//
// A gap inside a body or chunk of known length is jumped. A gap beyond a chunk in which no message began is the rest of
// that body, whose framing is lost: it is adrift, and ends where a head begins on its side, where the turn passes to the
// other side, in silence, or with the connection; its length is then that of what passed, framing included. Any other gap loses what
// it hit, and the reader skips to the next captured buffer that begins with a head.
//
// Pairing is by ordinal: requests and responses are both counted from 0, those inside gaps by the heads that the kernel
// saw begin there. While nothing was lost, order alone is certain, pipelined or not (RFC 9112 §9.3.2). After a loss a
// response is paired only if its ordinal is that of the newest request, which is so on every connection that does
// not pipeline; a connection that shows any other picture afterwards is ambiguous for good, and its requests
// are counted as lost; at its end the answers that were begun tell how many there were. The first pairs after a loss
// are handed out only when the next response goes to the newest request again, or silence or the end finds each request
// with one response: where a pipeline sends many heads in one buffer, the kernel counts one. What counts can't tell
// apart is a pipeline whose losses on both sides look like turns three times in a row.
//
// A response may be seen just before its request, where one thread sends and another receives: if the next bytes of the
// request side follow without a gap, they are that request.
//
// A response that is left out on purpose (Shed) is counted by its head like any other, and adrift from its first byte. Of an
// interim one nothing tells but what follows: after Expect: 100-continue, whether the client sends its body or another
// request; otherwise a second response that nobody waits for, which is dropped when the next request is later than it.
//
// The Parser owns its messages and hands them out until emit returns. A request whose response head was lost, or whose
// own head was lost, is counted, never emitted.
package http1

import (
	"errors"
	"fmt"
	"time"

	"github.com/spile/spile/agent/parse"
)

// ErrNotHTTP says that the stream does not carry HTTP/1.
var ErrNotHTTP = errors.New("not http/1")

// proofsNeeded pairs after a loss wait until the next response shows that the connection takes turns.
const proofsNeeded = 2

// maxMalformed heads or framings in a row, and the stream is given up.
const maxMalformed = 16

type state uint8

const (
	head       state = iota // between messages, or inside a head
	body                    // left bytes of a body of known length to come
	chunkSize               // the line before a chunk
	chunkData               // left bytes of a chunk to come
	chunkEnd                // the line end behind a chunk
	trailer                 // fields after the last chunk
	untilClose              // a body that ends with the connection
	adrift                  // in a chunked body whose framing is lost: it goes on to the next head
	skip                    // framing is lost
)

// half reads one direction.
type half struct {
	side  parse.Side
	state state
	fresh bool // the rest of the buffer is the whole buffer: a head may begin here
	ended bool // a message ended in this buffer, before what is read now
	// tentative: the bytes in buf followed a gap and may or may not become a head.
	tentative bool
	// peek: a response to a request of unknown method; a HEAD response has no body, so the next may be a head.
	peek    bool
	awaits  bool // a request whose body waits for 100 Continue
	left    uint64
	buf     []byte // of a head, line or trailer that is not complete
	scanned int    // bytes of buf known to hold no end
	start   time.Duration
	open    bool // a message was begun, its end not seen
	call    *call
	msg     *parse.Message
}

// call is a request and its response on the way.
type call struct {
	req, resp *parse.Message
	ordinal   uint64
	reqDone   bool
	respDone  bool
	gap       bool
}

// Parser reads one connection. It implements parse.Parser.
type Parser struct {
	limits parse.Limits
	emit   func(*parse.Exchange)
	out    parse.Exchange // what emit gets
	half   [2]half
	calls  []*call // requests whose response head was not seen, oldest first
	early  *call   // a response that was seen before its request: two threads of a client may be seen out of order
	answer *call   // the call whose response is being read, or whose request is not done yet

	requests  uint64 // begun, those in gaps included
	responses uint64 // final ones begun, those in gaps included
	sent      uint64 // requests as they were counted, without what ordinals are corrected by
	answered  uint64 // and responses
	orphans   uint64 // responses seen whose request must lie in a gap that was not reported yet

	doubted *call // complete, after a loss: waits for proof that the connection takes turns
	proofs  int   // still needed before pairs are handed out at once

	missing   bool // a head was lost
	certain   bool // no head was lost: order alone pairs
	pipelined bool // a response began when a later request had begun
	ambiguous bool // pairing is impossible for the rest of the connection
	late      bool // the stream was joined after its first byte
	asked     bool // a request was seen to begin
	lateDue   bool // the first pair of a late stream is still to come
	switched  bool
	sound     bool // at least one head was read
	shed      bool // responses were left out on purpose
	upgraded  bool // the response that was left out last answers a request for another protocol
	interim   passed
	at        time.Duration
	strikes   int

	counts parse.Counts
	spans  []span
	spare  []*call
	pool   parse.Pool
}

// New makes a parser. late says that the stream was joined after its first byte.
func New(limits parse.Limits, late bool, emit func(*parse.Exchange)) *Parser {
	p := &Parser{limits: limits, emit: emit, certain: !late, late: late, lateDue: late}
	p.half[parse.Responses].side = parse.Responses
	if late {
		p.half[parse.Requests].state, p.half[parse.Responses].state = skip, skip
	}
	return p
}

// Counts implements parse.Parser.
func (p *Parser) Counts() parse.Counts { return p.counts }

// Buffered implements parse.Parser.
func (p *Parser) Buffered() int {
	n := len(p.half[0].buf) + len(p.half[1].buf)
	for _, c := range p.calls {
		n += held(c.req)
	}
	for _, c := range []*call{p.answer, p.doubted} {
		if c != nil {
			n += held(c.req) + held(c.resp)
		}
	}
	return n
}

func held(m *parse.Message) int {
	if m == nil {
		return 0
	}
	n := len(m.Body) + len(m.Target)
	for _, f := range m.Header {
		n += len(f.Name) + len(f.Value)
	}
	return n
}

// Feed implements parse.Parser.
func (p *Parser) Feed(side parse.Side, data []byte, at time.Duration) error {
	if p.switched {
		return parse.ErrSwitched
	}
	h := &p.half[side&1]
	h.fresh, h.ended, p.at = true, false, at
	lost := p.counts.Lost
	for len(data) > 0 {
		n := p.step(h, data, at)
		data = data[n:]
		if n > 0 {
			h.fresh = false
		}
		if p.switched {
			p.finish()
			return parse.ErrSwitched
		}
	}
	if p.strikes >= maxMalformed || (p.strikes > 0 && !p.sound && !p.late) {
		p.finish()
		if !p.sound {
			p.counts.Lost = lost // what was counted here is no request
		}
		return fmt.Errorf("read %s: %w", [2]string{"request", "response"}[side&1], ErrNotHTTP)
	}
	return nil
}

// step reads from the front of data and returns how much. It returns 0 only when the state has changed.
func (p *Parser) step(h *half, data []byte, at time.Duration) int {
	if h.peek {
		h.peek = false
		if h.fresh && Sniff(h.side, data) == parse.Yes {
			p.endMessage(h, true)
			h.ended = false
		}
	}
	if h.awaits {
		// A final answer instead of 100: the body may never come (RFC 9110 §10.1.1).
		h.awaits = false
		next := h.fresh && Sniff(h.side, data) == parse.Yes
		if next {
			p.finalAnswer()
		}
		p.interim = passed{}
		if c := h.call; next && (c == nil || c.respDone || c.resp != nil && c.resp.Shed) {
			p.endMessage(h, false)
			h.ended = false
		}
	}
	if p.upgraded && h.side == parse.Requests {
		p.upgraded = h.state != head
		if !p.upgraded && h.fresh && Sniff(h.side, data) == parse.No {
			p.switched = true
			return len(data)
		}
	}
	switch h.state {
	case head:
		return p.readHead(h, data, at)
	case body, chunkData:
		n := int(min(uint64(len(data)), h.left))
		p.keep(h, data[:n], at)
		h.left -= uint64(n)
		if h.left == 0 {
			if h.state == body {
				p.endMessage(h, true)
			} else {
				h.state = chunkEnd
			}
		}
		return n
	case chunkSize, chunkEnd, trailer:
		return p.readFraming(h, data, at)
	case adrift:
		if h.fresh && Sniff(h.side, data) != parse.No {
			p.land(h)
			return 0
		}
		p.keep(h, data, at)
		return len(data)
	case untilClose:
		p.keep(h, data, at)
		return len(data)
	}
	return p.resync(h, data)
}

// resync looks for a head where a captured buffer begins: senders begin messages with a write of their own.
func (p *Parser) resync(h *half, data []byte) int {
	if h.fresh {
		if v := Sniff(h.side, data); v != parse.No {
			h.state, h.tentative = head, true
			return 0
		}
	}
	return len(data)
}

// keep counts bytes of a body, and stores the first of them.
func (p *Parser) keep(h *half, b []byte, at time.Duration) {
	m := h.msg
	if m == nil {
		return
	}
	m.End = at
	m.BodyBytes += uint64(len(b))
	if m.BodyTruncated {
		return
	}
	n := min(len(b), p.limits.Body-len(m.Body))
	m.Body = append(m.Body, b[:n]...)
	m.BodyTruncated = n < len(b)
}
