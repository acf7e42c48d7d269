package parsetest

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/spile/spile/agent/parse"
)

// Script turns fuzzed bytes into a talk: an opcode, a length of two bytes, and that many bytes of data.
func Script(b []byte) []Event {
	var talk []Event
	if len(b) > 0 && b[0]&0x80 != 0 {
		talk = append(talk, Event{Kind: Late})
	}
	for at := time.Duration(0); len(b) >= 3; at += time.Millisecond {
		op, n := b[0], int(binary.LittleEndian.Uint16(b[1:]))
		b = b[3:]
		e := Event{Side: parse.Side(op & 1), At: at}
		switch op >> 1 & 7 {
		case 6, 7:
			if e.Kind = Gap; op>>1&7 == 6 {
				e.Kind = Shed
			}
			e.Bytes, e.Heads = uint64(n), uint32(op>>4)&3
			talk = append(talk, e)
			continue
		}
		n = min(n, len(b))
		e.Data, b = b[:n], b[n:]
		talk = append(talk, e)
	}
	return talk
}

// Encode is the reverse of Script, for seeds.
func Encode(talk []Event) []byte {
	var b []byte
	late := byte(0)
	for _, e := range talk {
		op, n := byte(e.Side), len(e.Data)
		switch e.Kind {
		case Late:
			late = 0x80
			continue
		case Gap:
			op, n = op|7<<1|byte(e.Heads&3)<<4, int(e.Bytes)
		case Shed:
			op, n = op|6<<1|byte(e.Heads&3)<<4, int(e.Bytes)
		case Close, Rest:
			continue
		}
		b = append(b, op)
		b = binary.LittleEndian.AppendUint16(b, uint16(min(n, 65535)))
		b = append(b, e.Data...)
	}
	if len(b) > 0 {
		b[0] |= late
	}
	return b
}

// Torture plays a talk and checks at every step that the parser stays within bound bytes and that its counts only
// grow and agree with what it emits.
func Torture(talk []Event, make Maker, bound int) error {
	var emitted uint64
	var wrong error
	late := len(talk) > 0 && talk[0].Kind == Late
	p := make(late, func(x *parse.Exchange) {
		emitted++
		if !x.Seen() {
			wrong = fmt.Errorf("emitted without both heads")
		}
		for _, m := range []*parse.Message{x.Request, x.Response} {
			if uint64(len(m.Body)) > m.BodyBytes || (uint64(len(m.Body)) < m.BodyBytes) != m.BodyTruncated && !x.Gap {
				wrong = fmt.Errorf("body of %d kept, %d counted, truncated %v", len(m.Body), m.BodyBytes, m.BodyTruncated)
			}
		}
	})
	var old parse.Counts
	check := func() error {
		n := p.Counts()
		if n.Emitted != emitted || n.Lost < old.Lost || n.Unanswered < old.Unanswered || n.Malformed < old.Malformed {
			return fmt.Errorf("counts %+v after %+v, %d emitted", n, old, emitted)
		}
		old = n
		if held := p.Buffered(); held < 0 || held > bound {
			return fmt.Errorf("holds %d bytes, bound %d", held, bound)
		}
		return wrong
	}
	for _, e := range talk {
		switch e.Kind {
		case Data:
			if p.Feed(e.Side, e.Data, e.At) != nil {
				p.Close(e.At)
				return check()
			}
		case Gap:
			p.Gap(e.Side, e.Bytes, e.Heads, e.At)
			if e.Bytes%3 == 0 {
				p.Rest(e.At)
			}
		case Shed:
			p.Shed(e.Side, e.Bytes, e.Heads, e.At)
			if e.Bytes%3 == 0 {
				p.Rest(e.At)
			}
		}
		if err := check(); err != nil {
			return err
		}
	}
	p.Close(time.Hour)
	return check()
}
