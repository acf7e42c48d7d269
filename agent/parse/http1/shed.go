package http1

import (
	"time"

	"github.com/spile/spile/agent/parse"
)

// passed is a head of the server that was left out while a request waited for leave to send its body: it was that leave
// (100), or the answer. What the client sends next tells.
type passed struct {
	at, end time.Duration
	bytes   uint64
}

// Shed implements parse.Parser. A response that was left out is adrift from its first byte: it goes on to the next head
// on its side, to the next request, to silence or to the end.
func (p *Parser) Shed(side parse.Side, bytes uint64, heads uint32, at time.Duration) {
	h := &p.half[side&1]
	switch {
	case p.switched || bytes == 0:
		return
	case side != parse.Responses:
		p.Gap(side, bytes, heads, at)
		return
	}
	p.at, p.shed = at, true
	if h.open && h.msg == nil {
		// It began in the middle of a head, which no one will read now.
		h.open, h.buf, h.scanned, h.state, h.tentative = false, h.buf[:0], 0, skip, false
		heads = max(heads, 1)
	}
	if heads == 0 {
		p.moreShed(h, bytes, at)
		return
	}
	if h.open {
		p.endMessage(h, h.peek || h.state == untilClose)
	}
	h.buf, h.scanned, h.tentative, h.peek, h.state = h.buf[:0], 0, false, false, skip
	for ; heads > 1; heads-- {
		p.answerShed(h, 0, at)
	}
	p.answerShed(h, bytes, at)
}

// moreShed takes bytes in which no message begins.
func (p *Parser) moreShed(h *half, bytes uint64, at time.Duration) {
	if p.interim.bytes > 0 && !h.open {
		p.interim.bytes += bytes // leave has no body: it was the answer
		p.interim.end = at
		p.finalAnswer()
		return
	}
	if h.open {
		p.Gap(parse.Responses, bytes, 0, at)
		return
	}
	h.state = skip // the rest of what nobody waits for
}

// answerShed takes a response of which nothing was copied.
func (p *Parser) answerShed(h *half, bytes uint64, at time.Duration) {
	if p.late && !p.asked {
		return // answers a request from before the stream was joined
	}
	p.stray()
	if r := &p.half[parse.Requests]; r.awaits && r.call != nil && r.call.resp == nil && p.interim.bytes == 0 {
		p.interim = passed{at, at, bytes}
		return
	}
	p.finalAnswer()
	p.pairShed(h, passed{at, at, bytes})
}

// finalAnswer says that what passed while a request waited for leave was its answer.
func (p *Parser) finalAnswer() {
	if x := p.interim; x.bytes > 0 {
		p.interim = passed{}
		p.pairShed(&p.half[parse.Responses], x)
	}
}

// pairShed makes a response of what passed, for the request that it answers.
func (p *Parser) pairShed(h *half, x passed) {
	if h.open {
		p.endMessage(h, false)
	}
	if len(p.calls) == 0 && p.certain && p.responses != p.requests {
		p.responses++ // a second interim one: nobody waits
		h.state = skip
		return
	}
	m := p.pool.Get()
	m.Shed, m.BodyTruncated = true, x.bytes > 0
	m.Start, m.HeadEnd, m.End = x.at, x.at, x.end
	h.open, h.msg, h.start = true, m, x.at
	p.pair(h)
	h.state = adrift
	if c := h.call; c != nil && c.req != nil {
		p.upgraded = switches(c.req)
	}
	if x.bytes > 0 {
		p.jump(h, x.bytes, x.end)
	}
}

// stray forgets a response without a request that was there before the next request: an interim one, and its final one
// was taken for another. A response that is seen before its request was read after that was sent.
func (p *Parser) stray() {
	c := p.early
	if c == nil || !c.resp.Shed || c.resp.Start >= p.at {
		return
	}
	p.early = nil
	if p.answer == c {
		p.answer = nil
	}
	p.responses--
	p.answered--
	if h := &p.half[parse.Responses]; h.call == c {
		h.open, h.msg, h.call, h.state = false, nil, nil, skip
	}
	p.recycle(c)
}

// switches reports whether a request asks for another protocol on its connection.
func switches(m *parse.Message) bool {
	if m.Method == "CONNECT" {
		return true
	}
	for _, f := range m.Header {
		if f.Name == "upgrade" {
			return true
		}
	}
	return false
}
