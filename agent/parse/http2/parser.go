// Package http2 reads HTTP/2 (RFC 9113) with HPACK (RFC 7541) from both directions of a connection, with pieces missing.
//
// Each direction is a reader of frames:
//
//	preface ──▶ head ──▶ payload ──┐        payload: DATA passes through; header blocks, SETTINGS, RST_STREAM and
//	              ▲  ▲─────────────┘        PUSH_PROMISE are gathered; everything else is passed over
//	              │
//	    skip ─────┘ at a buffer that is a run of sound frames
//	     ▲
//	     └── a gap beyond the frame that it began in, or bytes that are no frame
//
// Streams are told apart by id, so a pair is never in doubt; what a gap takes is the meaning of header blocks. A gap
// inside a frame of known length is jumped; if the frame carried headers, or if framing was lost, the compression state
// of that direction is that of a late joiner from there on: the static table, literals and what is inserted later
// resolve, all else is unknown and counted in UnknownHeaders. A request without a sure method and path is no call:
// it is counted as lost.
//
// Clients number their streams 1, 3, 5, ... (RFC 9113 §5.1.1). Once bytes of the client were lost, ids that are jumped
// are requests that were lost; ids that only the server's frames name are, too. Requests at the end of a connection that
// no id proves are not known here: flow has the kernel's count of them.
//
// Where responses are left out on purpose nothing tells which request they answer. A request is answered once it has ended
// and bytes of the server have passed after that; it is handed out when the next one begins, in silence, or at the end.
//
// The Parser owns calls and tables; an exchange is handed out when both directions of its stream have ended. Pushed
// streams are decoded for their compression state and otherwise ignored. `Upgrade: h2c` is not followed.
package http2

import (
	"errors"
	"fmt"
	"time"

	"github.com/spile/spile/agent/parse"
)

// ErrNotHTTP2 says that the stream does not carry HTTP/2.
var ErrNotHTTP2 = errors.New("not http/2")

const (
	maxStrikes = 16
	// openFactor: HTTP/2 has many requests open by design; servers allow 100 to 250.
	openFactor = 8
	// stale is how long a stream that a gap may have ended is waited for.
	stale = 10 * time.Second
)

type state uint8

const (
	prefaceState state = iota
	head
	payload
	skip
)

// half reads one direction.
type half struct {
	side  parse.Side
	state state
	fresh bool   // at the begin of a captured buffer
	buf   []byte // of a preface, head or payload that is not complete
	frame frameHead
	start time.Duration // of the frame
	left  int           // bytes of the payload to come
	pad   int           // of them padding; -1: its length is the next byte
	max   int           // of a frame
	lossy bool          // bytes were lost since the last request id

	block      []byte // header fragments up to END_HEADERS
	blockFrame frameHead
	blockStart time.Duration
	inBlock    bool
	hpack      decoder
}

// call is one stream of the connection.
type call struct {
	id              uint32
	req, resp       *parse.Message
	reqEnd, respEnd bool
	gap             bool   // bytes of it may be lost
	asked           uint64 // value of Parser.passed when its request was last read
	last            time.Duration
	bytes           int
}

// Parser reads one connection. It implements parse.Parser.
type Parser struct {
	limits  parse.Limits
	emit    func(*parse.Exchange)
	out     parse.Exchange // what emit gets
	half    [2]half
	calls   map[uint32]*call
	last    int64 // highest request id that is accounted for; -1 before the first, none before a late one
	hinted  int64 // highest request id that the server's frames name
	lateDue bool
	sound   bool // a header block was read
	closed  bool
	strikes int
	held    int
	gaps    int // calls with gap set, about
	shed    shed
	swept   time.Duration
	counts  parse.Counts
	pool    parse.Pool
}

const none = -2

// New makes a parser. late says that the stream was joined after its first byte.
func New(limits parse.Limits, late bool, emit func(*parse.Exchange)) *Parser {
	p := &Parser{limits: limits, emit: emit, calls: map[uint32]*call{}, last: -1, hinted: -1, lateDue: late}
	for i := range p.half {
		h := &p.half[i]
		h.side, h.max, h.hpack = parse.Side(i), initialFrame, newDecoder(late)
		h.state = head
		if late {
			h.state, h.max = skip, lateFrame
		}
	}
	if late {
		p.last, p.hinted = none, none
	} else {
		p.half[parse.Requests].state = prefaceState
	}
	return p
}

// Counts implements parse.Parser.
func (p *Parser) Counts() parse.Counts { return p.counts }

// Buffered implements parse.Parser.
func (p *Parser) Buffered() int {
	n := p.held
	for i := range p.half {
		h := &p.half[i]
		n += len(h.buf) + len(h.block) + h.hpack.size
	}
	return n
}

// Feed implements parse.Parser.
func (p *Parser) Feed(side parse.Side, data []byte, at time.Duration) error {
	if p.closed {
		return nil
	}
	h := &p.half[side&1]
	h.fresh = true
	for len(data) > 0 {
		n := p.step(h, data, at)
		data = data[n:]
		if n > 0 {
			h.fresh = false
		}
	}
	p.sweep(at)
	if p.strikes >= maxStrikes || p.strikes > 0 && !p.sound && p.last == -1 {
		p.Close(at)
		return fmt.Errorf("read %s: %w", [2]string{"request", "response"}[side&1], ErrNotHTTP2)
	}
	return nil
}

// step reads from the front of data and returns how much; 0 only when the state has changed.
func (p *Parser) step(h *half, data []byte, at time.Duration) int {
	switch h.state {
	case prefaceState:
		n := min(len(data), len(preface)-len(h.buf))
		h.buf = append(h.buf, data[:n]...)
		switch parse.Prefix(h.buf, preface) {
		case parse.Yes:
			h.buf, h.state = h.buf[:0], head
		case parse.No:
			p.broken(h, at)
		}
		return n
	case head:
		n := min(len(data), headBytes-len(h.buf))
		if len(h.buf) == 0 {
			h.start = at
		}
		b := data[:n]
		if n < headBytes {
			h.buf = append(h.buf, b...)
			b = h.buf
		}
		if len(b) == headBytes {
			p.begin(h, readHead(b), at)
		}
		return n
	case payload:
		return p.payload(h, data, at)
	}
	if h.fresh && chain(h.side, data, nil) {
		h.state = head
		return 0
	}
	return len(data)
}

// begin takes the head of a frame.
func (p *Parser) begin(h *half, f frameHead, at time.Duration) {
	h.buf = h.buf[:0]
	continued := f.kind == frameContinuation && f.id == h.blockFrame.id
	if !f.sound(h.side, h.max, false) || h.inBlock != continued {
		p.broken(h, at)
		return
	}
	if f.kind != framePriority { // which may name streams that never come to be
		p.hint(f.id)
	}
	h.frame, h.left, h.pad, h.state = f, f.length, 0, payload
	if f.kind == frameData && f.has(flagPadded) {
		h.pad = -1
		if f.length == 0 {
			p.broken(h, at)
			return
		}
	}
	if f.length == 0 {
		p.frame(h, nil, at)
	}
}

// payload reads what follows a head.
func (p *Parser) payload(h *half, data []byte, at time.Duration) int {
	n := min(len(data), h.left)
	switch h.frame.kind {
	case frameData:
		if h.pad < 0 {
			n, h.pad = 1, int(data[0])
			if h.pad >= h.left {
				p.broken(h, at)
				return n
			}
		} else {
			p.data(h, data[:h.body(n)], at)
		}
		h.left -= n
		if h.left == 0 {
			p.frame(h, nil, at)
		}
		return n
	case frameHeaders, frameContinuation, framePush, frameSettings, frameReset:
		if h.frame.length > max(p.limits.Head, initialFrame) {
			break // too large to gather; frame says what that means
		}
		if len(h.buf) == 0 && n == h.left {
			h.left = 0
			p.frame(h, data[:n], at)
			return n
		}
		h.buf = append(h.buf, data[:n]...)
	}
	h.left -= n
	if h.left == 0 {
		b := h.buf
		p.frame(h, b, at)
		h.buf = h.buf[:0]
	}
	return n
}

// body is how many of the next n bytes of a DATA frame are body; the padding comes last.
func (h *half) body(n int) int { return max(0, min(n, h.left-h.pad)) }

// broken ends a direction's framing.
func (p *Parser) broken(h *half, at time.Duration) {
	p.counts.Malformed++
	p.strikes++
	p.desync(h, at)
}
