package http1

import (
	"bytes"
	"strings"
	"time"

	"github.com/spile/spile/agent/parse"
)

// span is a field inside a head: name and value by position.
type span struct{ name, nameEnd, value, valueEnd int }

// framing is what a head says about its body.
type framing struct {
	length    uint64
	hasLength bool
	te        bool // a transfer coding is named
	expect    bool // the sender waits for 100 Continue
	chunked   bool // and the last one is chunked
	badLength bool
	malformed bool
}

// headEnd returns the bytes up to and with the empty line, or -1. A bare LF ends a line, too (RFC 9112 §2.2).
func headEnd(b []byte, from int) int {
	for i := from; i < len(b); {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return -1
		}
		i += n + 1
		if i < len(b) && b[i] == '\n' {
			return i + 1
		}
		if i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n' {
			return i + 2
		}
	}
	return -1
}

// readHead reads a head that may be spread over many buffers.
func (p *Parser) readHead(h *half, data []byte, at time.Duration) int {
	if len(h.buf) == 0 {
		if !h.tentative {
			// Empty lines before a request line are ignored (RFC 9112 §2.2).
			n := 0
			for n < len(data) && (data[n] == '\r' || data[n] == '\n') {
				n++
			}
			if n > 0 {
				return n
			}
			p.begin(h)
		}
		h.start, h.scanned = at, 0
		if end := headEnd(data, 0); end >= 0 && end <= p.limits.Head && p.begins(h, data) == parse.Yes {
			p.head(h, data[:end], at)
			return end
		}
	}
	// The end may lie up to three bytes before the seam.
	seam := len(h.buf)
	room := p.limits.Head - seam
	take := min(len(data), room)
	h.buf = append(h.buf, data[:take]...)
	switch p.begins(h, h.buf) {
	case parse.No:
		h.buf = h.buf[:0]
		if !h.tentative {
			p.broken(h)
			return len(data)
		}
		h.tentative, h.state = false, skip
		if seam > 0 && h.fresh {
			return 0 // what came before was no head, but this buffer may begin with one
		}
		return len(data)
	case parse.Maybe:
		return take
	}
	if end := headEnd(h.buf, h.scanned); end >= 0 {
		p.head(h, h.buf[:end], at)
		h.buf = h.buf[:0]
		return end - seam
	}
	h.scanned = max(0, len(h.buf)-3)
	for h.scanned > 0 && h.buf[h.scanned-1] == '\n' {
		h.scanned--
	}
	if take == room {
		h.buf = h.buf[:0]
		p.broken(h)
		return len(data)
	}
	return take
}

// begins checks the first bytes of a head. After a gap only certain begins count; in step any method will do.
func (p *Parser) begins(h *half, b []byte) parse.Verdict {
	v := Sniff(h.side, b)
	if h.tentative {
		if v == parse.Yes {
			h.tentative = false
			p.begin(h)
		}
		return v
	}
	if v == parse.Yes || h.side == parse.Responses {
		return v
	}
	for i, c := range b {
		if c == ' ' && i > 0 {
			return parse.Yes
		}
		if i == longestMethod || !token(c) {
			return parse.No
		}
	}
	return parse.Maybe
}

// token is tchar of RFC 9110 §5.6.2.
func token(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// head reads a complete head and decides how its body is framed.
func (p *Parser) head(h *half, b []byte, at time.Duration) {
	m, f, ok := p.parseHead(h.side, b)
	if !ok {
		p.broken(h)
		return
	}
	p.sound, p.strikes = true, 0
	m.HeadComplete, m.Start, m.HeadEnd, m.End = true, h.start, at, at
	if f.malformed {
		p.counts.Malformed++
	}
	h.msg = m
	if h.side == parse.Requests {
		p.requestHead(h, f)
	} else {
		p.responseHead(h, f)
	}
}

// parseHead makes one text of the head; every field is a piece of it.
func (p *Parser) parseHead(side parse.Side, b []byte) (*parse.Message, framing, bool) {
	var f framing
	m := p.pool.Get()
	b = m.Hold(b)
	line := bytes.IndexByte(b, '\n') + 1
	first := trimEnd(b[:line])
	dropped := p.split(b, line, &f)
	s := m.Text()
	if !startLine(m, side, s[:len(first)]) {
		return nil, f, false
	}
	m.UnknownHeaders = dropped
	for _, sp := range p.spans {
		field := parse.Field{Name: s[sp.name:sp.nameEnd], Value: s[sp.value:sp.valueEnd]}
		m.Header = append(m.Header, field)
		f.note(m, field)
	}
	if f.te && f.hasLength {
		f.malformed = true // RFC 9112 §6.3: the transfer coding wins, and the sender is at fault
	}
	return m, f, true
}

// split finds the fields of b from position at on, lower-cases their names in place and unfolds values.
// It returns how many fields did not fit.
func (p *Parser) split(b []byte, at int, f *framing) (dropped int) {
	p.spans = p.spans[:0]
	for at < len(b) {
		n := bytes.IndexByte(b[at:], '\n')
		end := at + n
		line, lineAt := trimEnd(b[at:end]), at
		at = end + 1
		if len(line) == 0 {
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			// A folded line continues the value before it (RFC 9112 §5.2).
			if len(p.spans) == 0 {
				f.malformed = true
				continue
			}
			last := &p.spans[len(p.spans)-1]
			for i := last.valueEnd; i < lineAt; i++ {
				b[i] = ' '
			}
			last.valueEnd = lineAt + len(line)
			continue
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 {
			f.malformed = true
			continue
		}
		if len(p.spans) >= p.limits.Names {
			dropped++
			continue
		}
		nameEnd := colon
		for nameEnd > 0 && (line[nameEnd-1] == ' ' || line[nameEnd-1] == '\t') {
			nameEnd--
			f.malformed = true
		}
		for i, c := range line[:nameEnd] {
			if c >= 'A' && c <= 'Z' {
				line[i] = c | 0x20
			}
		}
		value := colon + 1
		for value < len(line) && (line[value] == ' ' || line[value] == '\t') {
			value++
		}
		p.spans = append(p.spans, span{lineAt, lineAt + nameEnd, lineAt + value, lineAt + len(line)})
	}
	return dropped
}

// trimEnd removes the line end and blanks before it.
func trimEnd(b []byte) []byte {
	n := len(b)
	for n > 0 && (b[n-1] == '\n' || b[n-1] == '\r' || b[n-1] == ' ' || b[n-1] == '\t') {
		n--
	}
	return b[:n]
}

// startLine reads a request line or a status line.
func startLine(m *parse.Message, side parse.Side, s string) bool {
	if side == parse.Responses {
		if len(s) < 12 || s[:7] != "HTTP/1." || s[8] != ' ' || (len(s) > 12 && s[12] != ' ') {
			return false
		}
		m.Protocol = protocol(s[7])
		for _, c := range []byte(s[9:12]) {
			if c < '0' || c > '9' {
				return false
			}
			m.Status = m.Status*10 + int(c-'0')
		}
		return m.Protocol != "" && m.Status >= 100
	}
	a, z := strings.IndexByte(s, ' '), strings.LastIndexByte(s, ' ')
	if a <= 0 || z <= a+1 || len(s)-z != 9 || s[z+1:z+8] != "HTTP/1." {
		return false
	}
	m.Protocol, m.Method, m.Target = protocol(s[z+8]), s[:a], strings.TrimSpace(s[a+1:z])
	return m.Protocol != "" && m.Target != ""
}

func protocol(minor byte) string {
	switch minor {
	case '1':
		return "http/1.1"
	case '0':
		return "http/1.0"
	}
	return ""
}
