package http2

import (
	"maps"
	"slices"
	"time"

	"github.com/spile/spile/agent/parse"
)

// shed is what passed of the server's bytes without being read, on purpose.
type shed struct {
	passed uint64 // times that some did
	told   uint64 // passed when calls were last handed out
	bytes  uint64 // since then
	first  time.Duration
	last   time.Duration
	tables bool // what they did to the compression state is not known
}

// Shed implements parse.Parser. What passes inside a DATA frame of known length is the rest of a body.
func (p *Parser) Shed(side parse.Side, bytes uint64, _ uint32, at time.Duration) {
	if p.closed || bytes == 0 {
		return
	}
	h := &p.half[side&1]
	inData := h.state == payload && h.frame.kind == frameData && bytes <= uint64(h.left)
	if side != parse.Responses || inData {
		p.Gap(side, bytes, 0, at)
		return
	}
	if h.state != skip {
		p.unread(h)
	}
	s := &p.shed
	if s.passed == s.told {
		s.first, s.bytes = at, 0
	}
	s.passed++
	s.bytes += bytes
	s.last = at
}

// unread gives up the framing of the responses, and loses none: requests whose response has no head yet are answered by
// what passes.
func (p *Parser) unread(h *half) {
	h.state, h.inBlock, h.block, h.buf = skip, false, nil, h.buf[:0]
	h.hpack = newDecoder(true)
	p.shed.tables = true
	h.unbound()
	p.half[1-h.side].unbound()
	for _, c := range p.calls {
		if m := c.resp; m != nil && !m.Complete {
			p.mark(c) // its end may not be seen
			m.BodyTruncated = true
		}
	}
}

// answered reports whether bytes of the server passed after the request was read.
func (p *Parser) answered(c *call) bool {
	return c.req != nil && c.resp == nil && p.shed.passed > c.asked
}

// answer makes a response of what passed. Only where one call was open its time and size are its own.
func (p *Parser) answer(c *call) {
	m := p.pool.Get()
	m.Protocol, m.Shed = "http/2", true
	m.Start, m.HeadEnd, m.End = p.shed.last, p.shed.last, p.shed.last
	if len(p.calls) == 0 { // c was removed
		m.Start, m.HeadEnd, m.BodyBytes = p.shed.first, p.shed.first, p.shed.bytes
		m.BodyTruncated = m.BodyBytes > 0
	}
	c.resp = m
}

// settleShed hands out the calls that are answered by what passed.
func (p *Parser) settleShed() {
	if p.shed.told == p.shed.passed {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(p.calls)) {
		if c := p.calls[id]; c.reqEnd && p.answered(c) {
			p.settle(c)
		}
	}
	p.shed.told = p.shed.passed
}
