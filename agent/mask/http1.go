package mask

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/spile/spile/agent/chunk"
)

type state uint8

const (
	inHead     state = iota
	inBody           // left bytes to come
	inSize           // the line before a chunk
	inChunk          // left bytes of a chunk to come
	inChunkEnd       // the line end behind a chunk
	inTrailer
	untilClose
	opaque // not understood
)

// feed1 walks over the bytes of one chunk of an HTTP/1 stream.
func (s *stream) feed1(f *half, h *held) {
	if f.state == opaque && h.Flags.Has(chunk.Head) {
		f.state = inHead
	}
	b := h.Data
	for len(b) > 0 && !s.opaque {
		n := len(b)
		switch f.state {
		case inHead:
			n = f.line(h, b, "\r\n\r\n", maxHead)
			if n == 0 {
				return
			}
			if strings.HasPrefix(preface, string(f.unit.buf)) {
				s.switch2(f, h, len(h.Data)-len(b)+n)
				return
			}
			s.head(f)
		case inSize:
			if n = f.line(h, b, "\n", 256); n == 0 {
				return
			}
			f.size()
		case inTrailer:
			if n = f.line(h, b, "\n", maxHead); n == 0 {
				return
			}
			last := len(bytes.TrimRight(f.unit.buf, "\r\n")) == 0
			maskHeaderLine(f.unit.buf, &framing{})
			f.unit.done()
			if last {
				f.state = inHead
			}
		case inChunkEnd:
			if n = f.line(h, b, "\n", 2); n == 0 {
				return
			}
			f.state = inSize
			if len(bytes.TrimRight(f.unit.buf, "\r\n")) > 0 {
				blank(f.unit.buf)
				f.state = opaque
			}
			f.unit.done()
		case inBody, inChunk:
			n = int(min(uint64(n), f.left))
			f.content.mask(b[:n])
			if f.left -= uint64(n); f.left == 0 {
				if f.state == inChunk {
					f.state = inChunkEnd
				} else {
					f.endBody()
					f.state = inHead
				}
			}
		case untilClose:
			f.content.mask(b)
		case opaque:
			blank(b)
		}
		b = b[n:]
	}
	if s.opaque {
		blank(b)
	}
}

// line adds bytes to the unit up to and with end, and returns how many; 0 where the end has not come yet.
func (f *half) line(h *held, b []byte, end string, limit int) int {
	old := len(f.unit.buf)
	from := max(0, old-len(end)+1)
	joined := append(f.unit.buf[from:old:old], b...)
	i := bytes.Index(joined, []byte(end))
	n := len(b)
	if i >= 0 {
		n = from + i + len(end) - old
	}
	if old+n > limit {
		f.unit.take(h, b)
		f.cut()
		f.state = opaque
		return 0
	}
	f.unit.take(h, b[:n])
	if i < 0 {
		return 0
	}
	return n
}

// head masks a head that is complete, and learns how its body is framed.
func (s *stream) head(f *half) {
	var fr framing
	ok, response := maskHead(f.unit.buf, &fr)
	f.unit.done()
	if !ok {
		f.state = opaque
		return
	}
	f.content = content{kind: fr.kind}
	if !response {
		s.asked = append(s.asked, fr.method)
		if len(s.asked) > 256 {
			s.asked = s.asked[1:]
		}
		f.frame(fr)
		return
	}
	method := ""
	if len(s.asked) > 0 && fr.status >= 200 || len(s.asked) > 0 && fr.status == 101 {
		method, s.asked = s.asked[0], s.asked[1:]
	}
	switch {
	case fr.status == 101, method == "CONNECT" && fr.status/100 == 2:
		s.opaque = true
	case fr.status/100 == 1, fr.status == 204, fr.status == 304, method == "HEAD":
		f.state = inHead
	case !fr.chunked && !fr.sized:
		f.state = untilClose
	default:
		f.frame(fr)
	}
}

// frame begins the body that a head announced.
func (f *half) frame(fr framing) {
	switch {
	case fr.chunked:
		f.state = inSize
	case fr.length > 0:
		f.state, f.left = inBody, fr.length
	default:
		f.state = inHead
	}
}

// size reads the line before a chunk (RFC 9112 section 7.1) and blanks extensions.
func (f *half) size() {
	line := f.unit.buf
	digits := 0
	for digits < len(line) && isHexDigit(line[digits]) {
		digits++
	}
	n, err := strconv.ParseUint(string(line[:digits]), 16, 62)
	end := len(bytes.TrimRight(line, "\r\n"))
	blank(line[min(digits+1, end):end])
	f.unit.done()
	switch {
	case err != nil:
		f.state = opaque
	case n == 0:
		f.endBody()
		f.state = inTrailer
	default:
		f.state, f.left = inChunk, n
	}
}

func (f *half) endBody() { f.content = content{kind: bodyOther} }

// cut ends an open unit before its time: all of it becomes 'x', and the half is not understood from there on.
func (f *half) cut() {
	if len(f.unit.buf) == 0 {
		return
	}
	blank(f.unit.buf)
	f.unit.done()
	f.state = opaque
}

func isHexDigit(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}

// framing is what a head says about its body.
type framing struct {
	method         string
	status         int
	length         uint64
	sized, chunked bool
	kind           bodyKind
}

// note keeps what a header says about framing.
func (fr *framing) note(name, value string) {
	switch name {
	case "content-length":
		if n, err := strconv.ParseUint(value, 10, 62); err == nil {
			fr.length, fr.sized = n, true
		}
	case "transfer-encoding":
		fr.chunked = strings.Contains(strings.ToLower(value), "chunked")
	case "content-encoding":
		if !strings.EqualFold(value, "identity") {
			fr.kind = bodyCoded
		}
	case "content-type":
		if fr.kind != bodyCoded {
			fr.kind = kindOf(value)
		}
	}
}
