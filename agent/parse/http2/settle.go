package http2

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spile/spile/agent/parse"
)

// note accounts for a new request id. Ids that are jumped are lost requests if bytes were lost on the way.
func (p *Parser) note(h *half, id uint32) {
	if h.lossy && p.last != none {
		p.counts.Lost += uint64((int64(id)-p.last)/2 - 1)
	}
	h.lossy = false
	p.last = int64(id)
	p.hinted = max(p.hinted, p.last)
}

// hint notes a request that only the server's frames name.
func (p *Parser) hint(id uint32) {
	if id%2 == 1 && p.last != none {
		p.hinted = max(p.hinted, int64(id))
	}
}

// end says that side h of a stream has ended.
func (p *Parser) end(h *half, id uint32, at time.Duration) {
	c := p.calls[id]
	if c == nil {
		return
	}
	c.last = at
	m := c.message(h.side)
	if m != nil {
		m.Complete, m.End = true, at
	}
	if h.side == parse.Requests {
		c.reqEnd, c.asked = true, p.shed.passed
	} else {
		if c.resp == nil { // it ended without a head that we saw
			p.lose(c)
			return
		}
		c.respEnd = true
	}
	if c.respEnd && (c.reqEnd || c.gap) {
		p.settle(c)
	}
}

// settle hands out a call as complete as it is, or counts what became of it.
func (p *Parser) settle(c *call) {
	p.remove(c)
	if c.req == nil {
		return // early, and its request never came: ids account for it
	}
	if c.resp == nil && p.answered(c) {
		p.answer(c)
	}
	if c.resp == nil {
		if c.gap {
			p.counts.Lost++
		} else {
			p.counts.Unanswered++
		}
		return
	}
	p.counts.Emitted++
	for _, m := range [...]*parse.Message{c.req, c.resp} {
		m.Complete = m.Complete || whole(m)
	}
	p.out = parse.Exchange{Request: c.req, Response: c.resp, Ordinal: uint64(c.id), LateJoin: p.lateDue, Gap: c.gap}
	p.lateDue = false
	p.emit(&p.out)
	p.pool.Put(c.req)
	p.pool.Put(c.resp)
}

// whole reports a body that is as long as its head promised. curl resets a stream there, and does not wait for its end.
func whole(m *parse.Message) bool {
	for _, f := range m.Header {
		if f.Name == "content-length" {
			n, err := strconv.ParseUint(f.Value, 10, 63)
			return err == nil && n == m.BodyBytes
		}
	}
	return false
}

func (p *Parser) lose(c *call) {
	if p.answered(c) {
		p.settle(c)
		return
	}
	p.remove(c)
	if c.req != nil { // else ids account for it
		p.counts.Lost++
	}
}

func (p *Parser) remove(c *call) {
	delete(p.calls, c.id)
	p.held -= c.bytes
	if c.gap {
		p.gaps--
	}
}

// grow accounts for the memory of a head.
func (p *Parser) grow(c *call, m *parse.Message) {
	n := len(m.Target)
	for _, f := range m.Header {
		n += len(f.Name) + len(f.Value) + entryCost
	}
	c.bytes += n
	p.held += n
}

// dropOldest makes room for a request.
func (p *Parser) dropOldest() {
	var oldest *call
	for _, c := range p.calls {
		if oldest == nil || c.id < oldest.id {
			oldest = c
		}
	}
	switch {
	case oldest == nil:
	case oldest.resp == nil:
		p.lose(oldest)
	default:
		p.settle(oldest)
	}
}

// Gap implements parse.Parser. Heads are left alone: stream ids tell, and flow settles what they don't at the end.
func (p *Parser) Gap(side parse.Side, bytes uint64, _ uint32, at time.Duration) {
	if p.closed || bytes == 0 {
		return
	}
	h := &p.half[side&1]
	if h.state != payload || bytes > uint64(h.left) {
		p.desync(h, at)
		return
	}
	if h.frame.kind == frameData {
		p.jump(h, int(bytes), at)
	}
	h.left -= int(bytes)
	h.buf = h.buf[:0]
	switch f := h.frame; f.kind {
	case frameHeaders, framePush:
		p.blockLost(h, f, at)
		h.frame.kind = framePing // pass over the rest
	case frameContinuation:
		h.inBlock, h.block = false, nil
		p.blockLost(h, h.blockFrame, at)
		h.frame.kind = framePing
	case frameSettings:
		h.frame.kind = framePing
		p.half[1-h.side].unbound()
	}
	if h.left == 0 {
		p.frame(h, nil, at)
	}
}

// jump passes over bytes of a DATA frame.
func (p *Parser) jump(h *half, n int, at time.Duration) {
	if h.pad < 0 {
		h.pad = 0 // its length was lost; the padding counts as body
	}
	if c := p.calls[h.frame.id]; c != nil {
		p.mark(c)
		if m := c.message(h.side); m != nil {
			m.BodyBytes += uint64(h.body(n))
			m.BodyTruncated, m.End = true, at
		}
	}
}

// unbound: settings for this direction may be lost, so its encoder may do more than we know of.
func (h *half) unbound() {
	h.hpack.limit = max(h.hpack.limit, 1<<32)
	h.max = max(h.max, lateFrame)
}

// blockLost: a header block was not read, so the table is not known any more, and the request or response is lost.
func (p *Parser) blockLost(h *half, f frameHead, at time.Duration) {
	h.hpack = newDecoder(true)
	if f.kind == framePush || f.id%2 == 0 {
		return
	}
	c := p.calls[f.id]
	if c != nil && c.req == nil && h.side == parse.Requests {
		p.remove(c)
		c = nil
	}
	switch {
	case c != nil && c.message(h.side) == nil:
		p.lose(c)
	case c != nil: // trailers
		p.mark(c)
		if f.has(flagEndStream) {
			p.end(h, f.id, at)
		}
	case h.side == parse.Requests && int64(f.id) > p.last:
		p.note(h, f.id)
		p.counts.Lost++
	default:
		p.hint(f.id)
	}
}

// desync gives up the framing of one direction.
func (p *Parser) desync(h *half, at time.Duration) {
	if h.state == payload && (h.frame.kind == frameHeaders || h.frame.kind == framePush) {
		p.blockLost(h, h.frame, at)
	} else if h.inBlock {
		p.blockLost(h, h.blockFrame, at)
	}
	h.state, h.inBlock, h.block, h.buf, h.lossy = skip, false, nil, h.buf[:0], true
	h.hpack = newDecoder(true)
	h.unbound()
	if h.side == parse.Requests {
		for _, c := range p.calls {
			if c.req == nil {
				p.remove(c)
			}
		}
	}
	p.half[1-h.side].unbound()
	for _, c := range p.calls {
		p.mark(c)
		if m := c.message(h.side); m != nil && !m.Complete {
			m.BodyTruncated = true
		}
	}
}

func (p *Parser) mark(c *call) {
	if !c.gap {
		c.gap = true
		p.gaps++
	}
}

// Rest implements parse.Parser.
func (p *Parser) Rest(at time.Duration) bool {
	if !p.closed {
		p.sweep(at)
		p.settleShed()
	}
	return !p.closed && p.gaps > 0
}

// sweep settles streams whose end a gap may have taken.
func (p *Parser) sweep(at time.Duration) {
	if p.gaps == 0 || at-p.swept < stale/10 {
		return
	}
	p.swept = at
	for _, id := range slices.Sorted(maps.Keys(p.calls)) {
		if c := p.calls[id]; c.gap && at-c.last >= stale {
			p.settle(c)
		}
	}
}

// Close implements parse.Parser.
func (p *Parser) Close(time.Duration) {
	if p.closed {
		return
	}
	p.closed = true
	h := &p.half[parse.Requests]
	if h.lossy && p.last != none && p.hinted > p.last {
		p.counts.Lost += uint64(p.hinted-p.last) / 2
	}
	// In the order of their ids, so that a replay is always the same.
	for _, id := range slices.Sorted(maps.Keys(p.calls)) {
		p.settle(p.calls[id])
	}
	p.calls, p.pool = nil, parse.Pool{}
	for i := range p.half {
		p.half[i].buf, p.half[i].block, p.half[i].hpack = nil, nil, decoder{}
	}
}
