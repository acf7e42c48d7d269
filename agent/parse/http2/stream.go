package http2

import (
	"encoding/binary"
	"time"

	"github.com/spile/spile/agent/parse"
)

// frame takes a whole frame; b is its payload where that is gathered.
func (p *Parser) frame(h *half, b []byte, at time.Duration) {
	f := h.frame
	h.state = head
	if len(b) < f.length && f.kind != frameData {
		b = nil // passed over
	}
	switch f.kind {
	case frameData:
		if f.has(flagEndStream) {
			p.end(h, f.id, at)
		}
	case frameHeaders, framePush:
		fragment, ok := unpad(f, b)
		if !ok || len(b) == 0 {
			p.blockLost(h, f, at)
			p.counts.Malformed++
			return
		}
		h.blockFrame, h.blockStart, h.inBlock = f, h.start, true
		p.fragment(h, fragment, f.has(flagEndHeaders), at)
	case frameContinuation:
		if len(b) == 0 && f.length > 0 {
			h.inBlock, h.block = false, nil
			p.blockLost(h, h.blockFrame, at)
			p.counts.Malformed++
			return
		}
		p.fragment(h, b, f.has(flagEndHeaders), at)
	case frameSettings:
		p.settings(h, b)
	case frameReset:
		if c := p.calls[f.id]; c != nil {
			c.last = at
			p.settle(c)
		}
	}
}

// settings bind the other direction: what its sender's encoder and frames may do.
func (p *Parser) settings(h *half, b []byte) {
	other := &p.half[1-h.side]
	for ; len(b) >= 6; b = b[6:] {
		v := binary.BigEndian.Uint32(b[2:])
		switch binary.BigEndian.Uint16(b) {
		case settingTable:
			// Never lowered here: the encoder says itself when it has followed (RFC 7541 §4.2).
			other.hpack.limit = max(other.hpack.limit, uint64(v))
		case settingFrame:
			if v < 1<<24 {
				other.max = max(other.max, int(v))
			}
		}
	}
}

// fragment gathers a header block. Blocks are bounded: one that is too large is lost, and its state with it.
func (p *Parser) fragment(h *half, b []byte, last bool, at time.Duration) {
	if !last || len(h.block) > 0 {
		if len(h.block)+len(b) > p.limits.Head {
			h.inBlock, h.block = false, nil
			p.counts.Malformed++
			p.blockLost(h, h.blockFrame, at)
			if !last {
				p.broken(h, at)
			}
			return
		}
		h.block = append(h.block, b...)
		b = h.block
	}
	if !last {
		return
	}
	f := h.blockFrame
	h.inBlock = false
	m, ok := p.decode(h, b, at)
	h.block = h.block[:0]
	if !ok {
		p.counts.Malformed++
		p.strikes++
		p.blockLost(h, f, at)
		return
	}
	p.sound = true
	if f.kind == framePush || f.id%2 == 0 {
		return
	}
	if h.side == parse.Requests {
		p.request(h, f, m, at)
	} else {
		p.response(h, f, m, at)
	}
}

// decode turns a header block into a message. Fields beyond the limits are decoded, for the table, and not kept.
func (p *Parser) decode(h *half, b []byte, at time.Duration) (*parse.Message, bool) {
	m := p.pool.Get()
	m.Protocol, m.Start, m.HeadEnd, m.End = "http/2", h.blockStart, at, at
	size := 0
	host := ""
	err := h.hpack.decode(b, func(name, value string, known bool) {
		size += len(name) + len(value)
		if !known || size > p.limits.Head || len(m.Header) >= p.limits.Names {
			m.UnknownHeaders++
			return
		}
		switch name {
		case ":method":
			m.Method = value
		case ":path":
			m.Target = value
		case ":authority":
			m.Authority = value
		case ":scheme":
			m.Scheme = value
		case ":status":
			m.Status = status(value)
		default:
			if name == "host" {
				host = value
			}
			m.Header = append(m.Header, parse.Field{Name: name, Value: value})
		}
	})
	if m.Authority == "" {
		m.Authority = host
	}
	return m, err == nil
}

func status(s string) int {
	if len(s) != 3 {
		return 0
	}
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// request takes a header block of the client: a new request, or trailers.
func (p *Parser) request(h *half, f frameHead, m *parse.Message, at time.Duration) {
	early := p.calls[f.id]
	if c := early; c != nil && c.req != nil {
		c.last = at
		if m.Method == "" {
			c.req.Trailer, c.req.End = m.Header, at
			c.req.UnknownHeaders += m.UnknownHeaders
			p.grow(c, m)
		}
		if f.has(flagEndStream) {
			p.end(h, f.id, at)
		}
		return
	}
	if int64(f.id) <= p.last {
		return // of a stream that is settled
	}
	if p.last == none && m.Method == "" && m.UnknownHeaders == 0 {
		return // trailers of a request from before the stream was joined
	}
	p.note(h, f.id)
	// CONNECT has no path (RFC 9113 §8.5).
	m.HeadComplete = m.Method != "" && (m.Target != "" || m.Method == "CONNECT" && m.Authority != "" && m.UnknownHeaders == 0)
	if !m.HeadComplete {
		if early != nil {
			p.remove(early)
		}
		p.counts.Lost++
		if m.UnknownHeaders == 0 {
			p.counts.Malformed++
		}
		return
	}
	if len(p.calls) >= p.limits.Open*openFactor {
		p.dropOldest()
	}
	p.strikes = 0
	p.settleShed()
	c := early
	if c == nil {
		c = &call{id: f.id}
		p.calls[f.id] = c
	}
	c.req, c.last, c.asked = m, at, p.shed.passed
	p.grow(c, m)
	if f.has(flagEndStream) {
		p.end(h, f.id, at)
	}
}

// early begins a call with its response: where one thread sends and another receives, they may be seen in that order.
func (p *Parser) early(id uint32) *call {
	if p.last == none || int64(id) <= p.last || p.half[parse.Requests].lossy || len(p.calls) >= p.limits.Open*openFactor {
		return nil
	}
	c := &call{id: id}
	p.calls[id] = c
	return c
}

// response takes a header block of the server: interim, final, or trailers.
func (p *Parser) response(h *half, f frameHead, m *parse.Message, at time.Duration) {
	c := p.calls[f.id]
	if c == nil {
		c = p.early(f.id)
	}
	if c == nil {
		return
	}
	c.last = at
	interim := m.Status >= 100 && m.Status < 200 && !f.has(flagEndStream)
	switch {
	case interim:
		return
	case c.resp == nil && (m.Status != 0 || p.shed.tables && m.UnknownHeaders > 0):
		// Without a status: the table that holds it was filled while responses were left out.
		m.HeadComplete, m.Shed = m.Status != 0, m.Status == 0
		c.resp = m
		p.grow(c, m)
	case c.resp == nil:
		// Trailers of a response whose head was lost, or a status that the table can't tell.
		p.lose(c)
		return
	case m.Status == 0:
		c.resp.Trailer, c.resp.End = m.Header, at
		c.resp.UnknownHeaders += m.UnknownHeaders
		p.grow(c, m)
	}
	if f.has(flagEndStream) {
		p.end(h, f.id, at)
	}
}

// data takes body bytes of a DATA frame.
func (p *Parser) data(h *half, b []byte, at time.Duration) {
	c := p.calls[h.frame.id]
	if c == nil {
		return
	}
	m := c.message(h.side)
	c.last = at
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
	c.bytes += n
	p.held += n
}

// message is the request or the response of c.
func (c *call) message(side parse.Side) *parse.Message {
	if side == parse.Requests {
		return c.req
	}
	return c.resp
}
