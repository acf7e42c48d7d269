package mask

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/net/http2/hpack"
)

// Frames and flags of RFC 9113 that matter here.
const (
	frameData         = 0
	frameHeaders      = 1
	framePriority     = 2
	frameReset        = 3
	frameSettings     = 4
	framePush         = 5
	framePing         = 6
	frameGoAway       = 7
	frameWindow       = 8
	frameContinuation = 9

	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	frameHead  = 9
	maxFrame   = 1 << 20
	maxBlock   = 256 << 10
	maxBodies  = 256 // streams whose bodies are followed at once
	maxPayload = 16384
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// frames is one direction of an HTTP/2 connection.
type frames struct {
	in      []byte // the begin of a frame whose rest is to come
	begun   int    // bytes of the preface that went out before
	ready   bool   // the preface is behind
	lost    bool   // bytes are missing: header blocks cannot be read any more
	decoder *hpack.Decoder
	encoder *hpack.Encoder
	encoded bytes.Buffer
	block   []byte // header block fragments until END_HEADERS
	stream  uint32 // whose block it is
	flags   byte
	bodies  map[uint32]*content
	out     []byte
}

func newFrames() *frames {
	f := &frames{bodies: make(map[uint32]*content)}
	f.decoder = hpack.NewDecoder(4096, nil)
	f.decoder.SetAllowedMaxDynamicTableSize(64 << 10)
	f.decoder.SetMaxStringLength(64 << 10)
	f.encoder = hpack.NewEncoder(&f.encoded)
	f.encoder.SetMaxDynamicTableSize(0)
	return f
}

// sniff2 reports whether the stream is HTTP/2: the client's preface, or the server's SETTINGS before it.
func (s *stream) sniff2(f *half, h *held) bool {
	if f.state != inHead || h.Offset != 0 || len(f.unit.buf) > 0 {
		return false
	}
	b := h.Data
	s.http2 = bytes.HasPrefix(b, []byte(preface[:16])) || len(b) >= frameHead && b[0] == 0 && b[3] == frameSettings && binary.BigEndian.Uint32(b[5:]) == 0
	return s.http2
}

// feed2 masks the frames that are complete; they are the new data of the chunk.
func (s *stream) feed2(f *half, h *held) {
	if f.h2 == nil {
		f.h2 = newFrames()
		if f.h2.lost = f.state == opaque || h.Offset != f.out; f.h2.lost {
			f.out = h.Offset
		}
	}
	x := f.h2
	x.out = nil
	if x.lost {
		blank(h.Data)
		x.out = h.Data
	} else {
		x.in = append(x.in, h.Data...)
		x.run()
		if len(h.Data) < int(h.Length) {
			x.lost = true
		}
	}
	missing := h.Length - uint32(len(h.Data))
	h.Offset, h.Data, h.Length = f.out, x.out, uint32(len(x.out))+missing
	f.out += uint64(h.Length)
}

// switch2 goes on as HTTP/2 behind the first part of a preface that came in pieces; it ends at byte n of the chunk.
func (s *stream) switch2(f *half, h *held, n int) {
	s.http2 = true
	f.h2 = newFrames()
	f.h2.begun = len(f.unit.buf)
	f.unit.done()
	f.out = h.Offset
	kept := h.Data[:n:n]
	h.Data = h.Data[n:]
	h.Length -= uint32(n)
	h.Offset += uint64(n)
	f.out = h.Offset
	s.feed2(f, h)
	h.Offset -= uint64(n)
	h.Length += uint32(n)
	h.Data = append(kept, h.Data...)
}

// run takes whole frames off the input.
func (x *frames) run() {
	if !x.ready && (x.begun > 0 || len(x.in) > 0 && x.in[0] == 'P') {
		if len(x.in) < len(preface)-x.begun {
			return
		}
		x.out = append(x.out, preface[x.begun:]...)
		x.in = x.in[len(preface)-x.begun:]
	}
	x.ready = true
	for len(x.in) >= frameHead && !x.lost {
		n := int(x.in[0])<<16 | int(x.in[1])<<8 | int(x.in[2])
		if n > maxFrame {
			x.lost = true
			break
		}
		if len(x.in) < frameHead+n {
			break
		}
		x.frame(x.in[3], x.in[4], binary.BigEndian.Uint32(x.in[5:])&^(1<<31), x.in[frameHead:frameHead+n])
		x.in = x.in[frameHead+n:]
	}
	if x.lost {
		blank(x.in)
		x.out, x.in = append(x.out, x.in...), nil
	}
	x.in = append([]byte(nil), x.in...)
}

func (x *frames) frame(typ, flags byte, stream uint32, p []byte) {
	switch typ {
	case frameData:
		body, pad, ok := unpad(flags, p)
		if !ok {
			x.lost = true
			return
		}
		x.body(stream).mask(body)
		blank(pad)
		if flags&flagEndStream != 0 {
			delete(x.bodies, stream)
		}
		x.write(typ, flags, stream, p)
	case frameHeaders:
		body, _, ok := unpad(flags, p)
		if flags&flagPriority != 0 && ok {
			if ok = len(body) >= 5; ok {
				body = body[5:]
			}
		}
		if !ok || x.stream != 0 {
			x.lost = true
			return
		}
		x.stream, x.flags, x.block = stream, flags, append(x.block[:0], body...)
		x.headers(flags)
	case frameContinuation:
		if x.stream != stream || stream == 0 || len(x.block)+len(p) > maxBlock {
			x.lost = true
			return
		}
		x.block = append(x.block, p...)
		x.headers(flags)
	case framePush:
		x.lost = true // its promise is a request of the server's own making: nothing that we read follows it
	case frameSettings, framePriority, frameReset, frameWindow:
		x.write(typ, flags, stream, p)
	case framePing:
		clear(p)
		x.write(typ, flags, stream, p)
	case frameGoAway:
		if len(p) > 8 {
			blank(p[8:])
		}
		x.write(typ, flags, stream, p)
	default:
		blank(p)
		x.write(typ, flags, stream, p)
	}
}

func (x *frames) body(stream uint32) *content {
	c := x.bodies[stream]
	if c == nil {
		c = &content{}
	}
	return c
}

// headers writes a block that is complete anew, masked.
func (x *frames) headers(flags byte) {
	if flags&flagEndHeaders == 0 {
		return
	}
	fields, err := x.decoder.DecodeFull(x.block)
	if err != nil {
		x.lost = true
		return
	}
	x.encoded.Reset()
	var fr framing
	for _, h := range fields {
		fr.note(h.Name, h.Value)
		name, value := []byte(h.Name), []byte(h.Value)
		if h.Name != "" && h.Name[0] != ':' {
			maskName(name)
		}
		maskHeader(h.Name, value)
		if err := x.encoder.WriteField(hpack.HeaderField{Name: string(bytes.ToLower(name)), Value: string(value), Sensitive: true}); err != nil {
			x.lost = true
			return
		}
	}
	if x.flags&flagEndStream == 0 && len(x.bodies) < maxBodies && fr.kind != bodyOther {
		x.bodies[x.stream] = &content{kind: fr.kind}
	} else if x.flags&flagEndStream != 0 {
		delete(x.bodies, x.stream)
	}
	block, typ, end := x.encoded.Bytes(), byte(frameHeaders), x.flags&flagEndStream
	for first := true; first || len(block) > 0; first = false {
		n := min(len(block), maxPayload)
		f := byte(0)
		if n == len(block) {
			f = flagEndHeaders
		}
		x.write(typ, f|end, x.stream, block[:n])
		block, typ, end = block[n:], frameContinuation, 0
	}
	x.stream = 0
}

func (x *frames) write(typ, flags byte, stream uint32, p []byte) {
	x.out = append(x.out, byte(len(p)>>16), byte(len(p)>>8), byte(len(p)), typ, flags)
	x.out = binary.BigEndian.AppendUint32(x.out, stream)
	x.out = append(x.out, p...)
}

// unpad takes the padding of a frame away (RFC 9113 section 6.1).
func unpad(flags byte, p []byte) (body, pad []byte, ok bool) {
	if flags&flagPadded == 0 {
		return p, nil, true
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, nil, false
	}
	end := len(p) - int(p[0])
	return p[1:end], p[end:], true
}
