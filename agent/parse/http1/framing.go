package http1

import (
	"bytes"
	"strings"
	"time"

	"github.com/spile/spile/agent/parse"
)

// maxLine bounds a chunk-size line with its extensions.
const maxLine = 4096

// note takes what a field says about framing and about the authority.
func (f *framing) note(m *parse.Message, field parse.Field) {
	switch field.Name {
	case "host":
		m.Authority = field.Value
	case "content-length":
		n, ok := length(field.Value)
		if !ok || f.hasLength && n != f.length {
			f.badLength, f.malformed = true, true
		}
		f.length, f.hasLength = n, true
	case "expect":
		f.expect = strings.EqualFold(field.Value, "100-continue")
	case "transfer-encoding":
		f.te = true
		last := field.Value[strings.LastIndexByte(field.Value, ',')+1:]
		f.chunked = strings.EqualFold(strings.TrimSpace(last), "chunked")
	}
}

// length reads Content-Length; a list of equal values is one value (RFC 9110 §8.6).
func length(s string) (uint64, bool) {
	if first, rest, list := strings.Cut(s, ","); list {
		a, ok := length(strings.TrimSpace(first))
		b, same := length(strings.TrimSpace(rest))
		return a, ok && same && a == b
	}
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n uint64
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

// requestHead takes a complete request head.
func (p *Parser) requestHead(h *half, f framing) {
	m := h.msg
	if i := strings.Index(m.Target, "://"); i > 0 && !strings.ContainsAny(m.Target[:i], "/?#") {
		// An absolute target carries the authority, and it wins over Host (RFC 9112 §3.2.2).
		m.Scheme = strings.ToLower(m.Target[:i])
		rest := m.Target[i+3:]
		n := strings.IndexAny(rest, "/?#")
		if n < 0 {
			n = len(rest)
		}
		m.Authority, m.Target = rest[:n], rest[n:]
		if m.Target == "" || m.Target[0] != '/' {
			m.Target = "/" + m.Target
		}
	} else if m.Method == "CONNECT" {
		m.Authority = m.Target
	}
	if h.call != nil {
		h.call.req = m
		// An early response to a HEAD has no body to wait for.
		if r := &p.half[parse.Responses]; m.Method == "HEAD" && r.call == h.call && r.state == body && r.msg.BodyBytes == 0 {
			p.endMessage(r, true)
		}
	}
	switch {
	case f.te && f.chunked:
		h.state, h.awaits = chunkSize, f.expect
	case f.te, f.badLength && !f.te:
		// The length of this request is unknowable (RFC 9112 §6.3); its head is whole.
		if !f.malformed {
			p.counts.Malformed++
		}
		p.endMessage(h, false)
		p.uncertain()
		h.state = skip
	default:
		h.awaits = f.expect && f.length > 0
		p.sized(h, f.length)
	}
}

// responseHead takes a complete response head.
func (p *Parser) responseHead(h *half, f framing) {
	m := h.msg
	method, known := p.methodOf(h)
	switch {
	case m.Status < 200 && m.Status != 101:
		// Interim: the final response is still to come (RFC 9110 §15.2).
		h.open, h.state, h.msg = false, head, nil
		p.pool.Put(m)
		return
	case m.Status == 101 || method == "CONNECT" && m.Status < 300:
		p.pair(h)
		p.endMessage(h, true)
		p.switched = true
		return
	}
	p.interim = passed{}
	p.pair(h)
	h.peek = !known
	switch {
	case method == "HEAD" || m.Status == 204 || m.Status == 304:
		p.endMessage(h, true)
	case f.te && f.chunked:
		h.state = chunkSize
	case f.te || !f.hasLength:
		h.state = untilClose
	case f.badLength:
		if !f.malformed {
			p.counts.Malformed++
		}
		p.endMessage(h, false)
		p.uncertain()
		h.state = skip
	default:
		p.sized(h, f.length)
	}
}

func (p *Parser) sized(h *half, n uint64) {
	if n == 0 {
		p.endMessage(h, true)
		return
	}
	h.state, h.left = body, n
}

// readFraming reads the lines between chunks, and the trailer.
func (p *Parser) readFraming(h *half, data []byte, at time.Duration) int {
	line, n := data, len(data)
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		n = i + 1
		line = data[:n]
	}
	whole := line[len(line)-1] == '\n'
	limit := maxLine
	if h.state == trailer {
		limit = p.limits.Head
	}
	if len(h.buf)+n > limit {
		h.buf = h.buf[:0]
		p.broken(h)
		return n
	}
	if h.state == trailer {
		h.buf = append(h.buf, line...)
		if empty := len(trimEnd(h.buf[h.scanned:])) == 0; whole && empty {
			p.trailer(h, at)
		} else if whole {
			h.scanned = len(h.buf)
		}
		return n
	}
	if !whole || len(h.buf) > 0 {
		h.buf = append(h.buf, line...)
		line = h.buf
	}
	if !whole {
		return n
	}
	line = trimEnd(line)
	h.buf = h.buf[:0]
	if h.state == chunkEnd {
		if h.state = chunkSize; len(line) > 0 {
			p.broken(h)
		}
		return n
	}
	size, ok := chunkLength(line)
	switch {
	case !ok:
		p.broken(h)
	case size == 0:
		h.state, h.scanned = trailer, 0
	default:
		h.state, h.left = chunkData, size
	}
	return n
}

// chunkLength reads the hexadecimal size before any extension (RFC 9112 §7.1).
func chunkLength(line []byte) (uint64, bool) {
	if i := bytes.IndexByte(line, ';'); i >= 0 {
		line = trimEnd(line[:i])
	}
	if len(line) == 0 || len(line) > 15 {
		return 0, false
	}
	var n uint64
	for _, c := range line {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		n = n<<4 | uint64(c)
	}
	return n, true
}

// trailer takes the fields behind the last chunk.
func (p *Parser) trailer(h *half, at time.Duration) {
	if h.msg != nil && len(trimEnd(h.buf)) > 0 {
		var f framing
		h.msg.UnknownHeaders += p.split(h.buf, 0, &f)
		if f.malformed {
			p.counts.Malformed++
		}
		s := string(h.buf)
		for _, sp := range p.spans {
			h.msg.Trailer = append(h.msg.Trailer, parse.Field{Name: s[sp.name:sp.nameEnd], Value: s[sp.value:sp.valueEnd]})
		}
	}
	if h.msg != nil {
		h.msg.End = at
	}
	p.endMessage(h, true)
}
