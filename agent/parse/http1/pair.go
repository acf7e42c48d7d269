package http1

import (
	"time"

	"github.com/spile/spile/agent/parse"
)

// begin notes that a message begins. Only requests count: responses may turn out to be interim.
func (p *Parser) begin(h *half) {
	h.open, h.msg, h.call = true, nil, nil
	if h.ended {
		// Two messages in one buffer: whoever takes turns has nothing to put behind the first.
		p.pipelines()
	}
	if h.side == parse.Responses {
		return
	}
	if r := &p.half[parse.Responses]; r.state == adrift {
		p.land(r) // whoever takes turns has all of it
	}
	p.stray()
	if c := p.early; c != nil {
		p.early, h.call = nil, c
		p.requests++
		p.sent++
		return
	}
	if p.responses > p.requests || p.late && !p.asked {
		// More responses than requests: an interim one in a gap was counted, or one was unsolicited (408). And where a
		// stream was joined late, what was asked before its first request was answered before, if it takes turns.
		p.responses, p.orphans = p.requests, 0
	}
	p.asked = true
	ordinal := p.requests
	p.requests++
	p.sent++
	if len(p.calls) >= p.limits.Open {
		p.ambiguous = true
		p.abandon()
	}
	if p.ambiguous {
		p.counts.Lost++
		return
	}
	h.call = p.newCall(ordinal)
	p.calls = append(p.calls, h.call)
}

// pair finds the request that the final response in h answers; h.call stays nil where that is not certain.
func (p *Parser) pair(h *half) {
	h.call = nil
	if p.late && !p.asked {
		return // answers a request from before the stream was joined
	}
	p.disown()
	ordinal := p.responses
	p.responses++
	if h.msg.Status != 408 {
		p.answered++
	}
	if p.ambiguous {
		return
	}
	n := len(p.calls)
	switch {
	case n == 0 && ordinal == p.requests && p.proofs == 0 && h.msg.Status != 408:
		p.settle()
		p.early = p.newCall(ordinal)
		p.early.resp, h.call, p.answer = h.msg, p.early, p.early
	case n == 0:
		p.certain = false
		p.doubtful()
		p.orphan(h.msg, ordinal)
	case p.certain:
		if n > 1 {
			p.pipelines()
		}
		p.take(h, 0)
	case p.calls[n-1].ordinal == ordinal:
		p.take(h, n-1)
	case p.calls[n-1].ordinal > ordinal:
		p.pipelines()
	default:
		p.abandon()
		p.orphan(h.msg, ordinal)
	}
}

// orphan notes a response that proves a request nobody saw. A 408 proves nothing: servers send it to idle clients.
func (p *Parser) orphan(m *parse.Message, ordinal uint64) {
	if ordinal >= p.requests && m.Status != 408 {
		p.orphans++
	}
}

// disown says that the early response answers no request that will be seen.
func (p *Parser) disown() {
	c := p.early
	if c == nil {
		return
	}
	p.early, p.answer, p.certain = nil, nil, false
	p.orphans++
	p.doubtful()
	p.recycle(c)
}

// take pairs the response in h with request i; those before it have lost their responses.
func (p *Parser) take(h *half, i int) {
	c := p.calls[i]
	for _, lost := range p.calls[:i] {
		p.drop(lost)
	}
	p.calls = append(p.calls[:0], p.calls[i+1:]...)
	p.settle()
	p.confirm()
	c.resp, h.call, p.answer = h.msg, c, c
}

// methodOf tells the method of the request that the next response answers, where it is certain.
func (p *Parser) methodOf(h *half) (method string, known bool) {
	n := len(p.calls)
	if n == 0 || p.ambiguous {
		return "", false
	}
	c := p.calls[0]
	if !p.certain {
		if c = p.calls[n-1]; c.ordinal != p.responses {
			return "", false
		}
	}
	if c.req == nil {
		return "", false
	}
	return c.req.Method, true
}

// uncertain says that a head may have been lost. A connection that pipelines can't be paired from there on.
func (p *Parser) uncertain() {
	p.certain, p.proofs = false, proofsNeeded
	if p.pipelined {
		p.pipelines()
	}
}

// pipelines notes that the connection does not take turns; unless nothing was ever lost, its pairs are unknowable.
func (p *Parser) pipelines() {
	p.pipelined = true
	if !p.certain && !p.ambiguous {
		p.ambiguous = true
		p.abandon()
		p.disown()
		p.doubtful()
	}
}

// abandon counts the waiting requests as lost.
func (p *Parser) abandon() {
	for _, c := range p.calls {
		p.drop(c)
	}
	p.calls = p.calls[:0]
}

// drop counts one request as lost; what is left of it is still read, for its framing.
func (p *Parser) drop(c *call) {
	p.counts.Lost++
	p.recycle(c)
}

// dropCall removes a request from the waiting ones and counts it as lost.
func (p *Parser) dropCall(c *call) {
	for i, o := range p.calls {
		if o == c {
			p.calls = append(p.calls[:i], p.calls[i+1:]...)
			p.drop(c)
			return
		}
	}
}

// endMessage says that h has read its message as far as it goes.
func (p *Parser) endMessage(h *half, complete bool) {
	c, m := h.call, h.msg
	h.open, h.peek, h.state, h.msg, h.call, h.ended = false, false, head, nil, nil, true
	h.buf, h.scanned = h.buf[:0], 0
	if m != nil {
		m.Complete = complete
	}
	if c == nil {
		return
	}
	if h.side == parse.Requests {
		c.reqDone = true
	} else {
		c.respDone = true
		if r := &p.half[parse.Requests]; r.state == adrift && r.call == c {
			p.land(r)
		}
	}
	if p.answer == c && c.reqDone && c.respDone {
		p.settle()
	}
}

// settle hands out the answered call, as complete as it is.
func (p *Parser) settle() {
	c := p.answer
	if c == nil {
		return
	}
	p.answer = nil
	if c.req == nil || c.resp == nil {
		if c.gap {
			p.counts.Lost++
		} else {
			p.counts.Unanswered++
		}
		p.recycle(c)
		return
	}
	if p.proofs > 0 {
		p.confirm()
		p.doubted = c
		return
	}
	p.handOut(c)
}

// confirm hands out the doubted pair: the next response went to the newest request again, so the connection takes turns.
func (p *Parser) confirm() {
	if c := p.doubted; c != nil {
		p.doubted = nil
		p.proofs--
		p.handOut(c)
	}
}

// doubtful gives up the doubted pair: something came that does not fit taking turns.
func (p *Parser) doubtful() {
	if c := p.doubted; c != nil {
		p.doubted = nil
		p.drop(c)
	}
}

// handOut emits a call.
func (p *Parser) handOut(c *call) {
	p.counts.Emitted++
	p.out = parse.Exchange{Request: c.req, Response: c.resp, Ordinal: c.ordinal, LateJoin: p.lateDue, Gap: c.gap}
	p.lateDue = false
	p.emit(&p.out)
	p.recycle(c)
}

// Close implements parse.Parser.
func (p *Parser) Close(time.Duration) {
	if !p.switched {
		p.switched = true
		p.finish()
	}
}

// finish settles what is open at the end of the stream.
func (p *Parser) finish() {
	p.switched = true
	p.finalAnswer()
	p.stray()
	for i := range p.half {
		h := &p.half[i]
		if h.open && h.msg != nil {
			p.endMessage(h, h.state == untilClose)
		}
	}
	p.disown()
	p.settle()
	if !p.even() {
		p.doubtful()
	}
	p.confirm()
	for _, c := range p.calls {
		switch {
		case p.shed && p.pipelined:
			// Answers that shared a buffer count for one there.
			p.counts.Lost++
			p.counts.LostShed++
		case !p.certain && c.ordinal < p.responses:
			p.counts.Lost++
		default:
			p.counts.Unanswered++
		}
	}
	if p.pipelined && !p.late && p.answered > p.sent {
		// Requests that shared a buffer were lost, and count for one there; each of their answers came in its own.
		p.counts.Lost += p.answered - p.sent
	}
	p.calls, p.spare, p.pool = nil, nil, parse.Pool{}
	for i := range p.half {
		p.half[i].buf, p.half[i].call = nil, nil
	}
}

// newCall and recycle keep two calls for reuse.
func (p *Parser) newCall(ordinal uint64) *call {
	if n := len(p.spare); n > 0 {
		c := p.spare[n-1]
		p.spare = p.spare[:n-1]
		c.ordinal = ordinal
		return c
	}
	return &call{ordinal: ordinal}
}

func (p *Parser) recycle(c *call) {
	reading := false
	for i := range p.half {
		h := &p.half[i]
		if h.call == c {
			h.call = nil
		}
		reading = reading || h.msg != nil && (h.msg == c.req || h.msg == c.resp)
	}
	if reading {
		return // what is left of the message is still read, for its framing
	}
	p.pool.Put(c.req)
	p.pool.Put(c.resp)
	*c = call{}
	if len(p.spare) < 2 {
		p.spare = append(p.spare, c)
	}
}
