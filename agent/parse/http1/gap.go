package http1

import (
	"time"

	"github.com/spile/spile/agent/parse"
)

// Gap implements parse.Parser.
func (p *Parser) Gap(side parse.Side, bytes uint64, heads uint32, at time.Duration) {
	if p.switched || bytes == 0 && heads == 0 {
		return
	}
	h := &p.half[side&1]
	if heads == 0 && h.state == skip && p.late && p.requests+p.responses == 0 {
		return // the rest of what began before the stream was joined
	}
	if h.peek && heads > 0 {
		// What seemed a body was none: the request had been a HEAD.
		p.endMessage(h, true)
	}
	if h.awaits && heads > 0 && (h.call == nil || h.call.respDone) {
		p.endMessage(h, false) // its body never came
	}
	if h.awaits && heads > 0 {
		p.finalAnswer()
		if c := h.call; c != nil && c.resp != nil && c.resp.Shed {
			p.endMessage(h, false)
		}
	}
	if h.side == parse.Requests {
		p.interim = passed{}
	}
	h.peek, h.awaits = false, false
	if heads == 0 && h.state == skip && h.side == parse.Responses && len(p.calls) == 0 {
		return // nobody waits for a response, so none began here
	}
	switch h.state {
	case untilClose:
		p.jump(h, bytes, at)
		return
	case adrift:
		if heads == 0 {
			p.jump(h, bytes, at)
			return
		}
		p.land(h)
	case body:
		n := min(bytes, h.left)
		p.jump(h, n, at)
		if h.left > 0 {
			return
		}
		p.endMessage(h, true)
		if n == bytes {
			return
		}
	case chunkData:
		n := min(bytes, h.left)
		p.jump(h, n, at)
		if h.left > 0 {
			return
		}
		if n == bytes {
			h.state = chunkEnd
			return
		}
		bytes -= n
	}
	if heads == 0 && p.drifts(h) {
		h.state = adrift
		p.jump(h, bytes, at)
		return
	}
	p.cut(h)
	p.missed(h, uint64(heads))
}

// drifts reports whether a gap in which no head is known to begin can be the rest of h's chunked body. The kernel sees
// only heads with which a buffer begins; a response that nobody has asked for can't begin at all, while a request might.
func (p *Parser) drifts(h *half) bool {
	if h.msg == nil || h.call == nil || h.state != chunkSize && h.state != chunkData && h.state != chunkEnd {
		return false
	}
	if h.side == parse.Requests {
		p.uncertain()
		return h.call != nil && !p.ambiguous
	}
	return len(p.calls) == 0
}

// Rest implements parse.Parser. A response that was adrift has come to its end, and where each request has one response,
// as at the end of a connection, a doubted pair is one.
func (p *Parser) Rest(time.Duration) bool {
	if p.switched {
		return false
	}
	if r := &p.half[parse.Responses]; r.state == adrift {
		p.land(r)
	}
	if p.proofs > 0 && p.even() && p.answer == nil && p.early == nil && len(p.calls) == 0 {
		p.confirm()
	}
	return p.doubted != nil
}

// even reports whether requests and responses agree in number, which says nothing where older ones are unknown.
func (p *Parser) even() bool { return p.responses == p.requests && !(p.late && p.missing) }

// land ends a body that was adrift.
func (p *Parser) land(h *half) {
	p.endMessage(h, false)
	h.state, h.ended = skip, false
}

// jump passes over bytes of a body.
func (p *Parser) jump(h *half, n uint64, at time.Duration) {
	if h.state == body || h.state == chunkData {
		h.left -= n
	}
	if h.msg != nil {
		h.msg.BodyBytes += n
		h.msg.BodyTruncated, h.msg.End = true, at
	}
	if h.call != nil && (h.msg == nil || !h.msg.Shed) {
		h.call.gap = true
	}
}

// cut ends what h is reading: a gap or damage took the rest of it.
func (p *Parser) cut(h *half) {
	switch {
	case !h.open:
	case h.msg != nil:
		if h.call != nil {
			h.call.gap = true
		}
		if h.state != trailer {
			h.msg.BodyTruncated = true
		}
		p.endMessage(h, h.state == trailer)
	case h.side == parse.Requests:
		h.open, p.missing = false, true
		if c := h.call; c != nil {
			h.call = nil
			if p.answer == c {
				c.gap = true
				p.settle()
			} else {
				p.dropCall(c)
			}
		}
	default:
		h.open = false
		p.missing = true
		p.missedResponse()
	}
	h.buf, h.scanned, h.state, h.tentative = h.buf[:0], 0, skip, false
}

// missedResponse accounts for a response whose head was hit.
func (p *Parser) missedResponse() {
	if p.late && !p.asked {
		return
	}
	ordinal := p.responses
	p.responses++
	p.answered++
	for _, c := range p.calls {
		if c.ordinal == ordinal {
			p.dropCall(c)
			return
		}
	}
}

// missed accounts for heads inside a gap.
func (p *Parser) missed(h *half, heads uint64) {
	h.state = skip
	p.missing = p.missing || heads > 0
	p.uncertain()
	if h.side == parse.Responses {
		if !p.late || p.asked {
			p.responses += heads
			p.answered += heads
		}
		return
	}
	p.disown()
	// Every response that came without a request proves one, even where the kernel saw fewer begin. On a stream that was
	// joined late it may answer a request from before.
	n := heads
	if !p.late {
		n = max(heads, p.orphans)
	}
	if n > heads {
		p.pipelines()
	}
	p.orphans = 0
	p.requests += n
	p.sent += n
	p.counts.Lost += n
}

// broken handles bytes that are not HTTP: what they belong to is lost, and the rest is skipped.
func (p *Parser) broken(h *half) {
	p.counts.Malformed++
	p.strikes++
	p.cut(h)
	h.state = skip
	p.uncertain()
}
