package http2

import (
	"encoding/binary"

	"github.com/spile/spile/agent/parse"
)

// preface begins every client connection (RFC 9113 §3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Frame types (RFC 9113 §6, RFC 9218).
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
	framePriorityNew  = 16
)

const (
	flagEndStream  = 0x1 // DATA, HEADERS
	flagAck        = 0x1 // SETTINGS, PING
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	headBytes    = 9
	initialFrame = 16384 // SETTINGS_MAX_FRAME_SIZE before any settings
	lateFrame    = 1 << 20
	settingTable = 1
	settingFrame = 5
)

// frameHead is the fixed part of a frame.
type frameHead struct {
	length int
	kind   byte
	flags  byte
	id     uint32
}

func readHead(b []byte) frameHead {
	return frameHead{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		kind:   b[3],
		flags:  b[4],
		id:     binary.BigEndian.Uint32(b[5:]) &^ (1 << 31),
	}
}

func (f frameHead) has(flag byte) bool { return f.flags&flag != 0 }

// sound checks what RFC 9113 §6 demands of each kind. strict also refuses what is allowed but unlikely, so that
// bytes from the middle of something are not taken for a frame.
func (f frameHead) sound(side parse.Side, max int, strict bool) bool {
	if f.length > max {
		return false
	}
	allowed := byte(0)
	ok := true
	onStream := f.id != 0
	odd := f.id%2 == 1
	switch f.kind {
	case frameData:
		ok, allowed = onStream && (odd || side == parse.Responses), flagEndStream|flagPadded
	case frameHeaders:
		ok = onStream && (odd || side == parse.Responses) && f.length > 0
		allowed = flagEndStream | flagEndHeaders | flagPadded | flagPriority
	case framePriority:
		ok = onStream && f.length == 5
	case frameReset:
		ok = onStream && f.length == 4
	case frameSettings:
		ok, allowed = !onStream && f.length%6 == 0 && (!f.has(flagAck) || f.length == 0), flagAck
	case framePush:
		ok, allowed = odd && side == parse.Responses && f.length >= 4, flagEndHeaders|flagPadded
	case framePing:
		ok, allowed = !onStream && f.length == 8, flagAck
	case frameGoAway:
		ok = !onStream && f.length >= 8
	case frameWindow:
		ok = f.length == 4
	case frameContinuation:
		ok, allowed = onStream, flagEndHeaders
	case framePriorityNew:
		ok = !onStream && f.length >= 4
	default:
		return !strict // unknown kinds are to be ignored (RFC 9113 §5.5)
	}
	return ok && (!strict || f.flags&^allowed == 0)
}

// chain says whether a buffer is a run of frames from its first byte on; the last one may be cut.
func chain(side parse.Side, b []byte, visit func(f frameHead, payload []byte)) bool {
	n := 0
	for ; len(b) >= headBytes; n++ {
		f := readHead(b)
		if b[5]&0x80 != 0 || !f.sound(side, lateFrame, true) {
			return false
		}
		b = b[headBytes:]
		part := b[:min(len(b), f.length)]
		if visit != nil {
			visit(f, part)
		}
		b = b[len(part):]
	}
	return n > 0
}

// Sniff says whether a buffer begins a message of side: the preface, the settings with which a server begins, or, on a
// stream joined late, frames with a header block that only this side can send.
func Sniff(side parse.Side, data []byte) parse.Verdict {
	if side == parse.Requests {
		if v := parse.Prefix(data, preface); v != parse.No {
			return v
		}
	} else if v := sniffSettings(data); v != parse.No {
		return v
	}
	found := false
	ok := chain(side, data, func(f frameHead, payload []byte) {
		if f.kind == frameHeaders {
			found = found || beginsLike(side, f, payload)
		}
	})
	if ok && found {
		return parse.Yes
	}
	return parse.No
}

// sniffSettings wants a short SETTINGS frame that is no acknowledgement.
func sniffSettings(b []byte) parse.Verdict {
	for i, c := range b[:min(len(b), headBytes)] {
		switch i {
		case 2:
			if c%6 != 0 || c > 96 {
				return parse.No
			}
		case 3:
			if c != frameSettings {
				return parse.No
			}
		default:
			if c != 0 {
				return parse.No
			}
		}
	}
	if len(b) < headBytes {
		return parse.Maybe
	}
	return parse.Yes
}

// beginsLike looks at the first field of a header block: pseudo fields come first (RFC 9113 §8.3).
func beginsLike(side parse.Side, f frameHead, payload []byte) bool {
	b, ok := unpad(f, payload)
	if !ok || len(b) == 0 {
		return false
	}
	c := b[0]
	if side == parse.Requests {
		return c == 0x82 || c == 0x83 || c == 0x42 || c == 0x02 || c == 0x12 // :method
	}
	return c >= 0x88 && c <= 0x8e || c == 0x48 || c == 0x08 || c == 0x18 // :status
}

// unpad removes padding and priority from the payload of HEADERS or PUSH_PROMISE.
func unpad(f frameHead, b []byte) ([]byte, bool) {
	pad := 0
	if f.has(flagPadded) {
		if len(b) == 0 {
			return nil, false
		}
		pad, b = int(b[0]), b[1:]
	}
	skip := 0
	if f.kind == frameHeaders && f.has(flagPriority) {
		skip = 5
	}
	if f.kind == framePush {
		skip = 4
	}
	if skip+pad > len(b) {
		return nil, false
	}
	return b[skip : len(b)-pad], true
}
