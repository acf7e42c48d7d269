// Package parsetest replays written conversations through a parser: whole, in pieces, and with pieces missing.
//
// A talk is text that a person can read. Each line is one captured buffer or one event, a millisecond apart:
//
//	# a comment
//	> GET / HTTP/1.1\r\n        a buffer from the client
//	| Host: a\r\n\r\n           more of the same buffer
//	< HTTP/1.1 200 OK\r\n       a buffer from the server
//	! late                      the stream was joined after its first byte
//	! gap > 512 1               512 bytes from the client passed unseen, and one message began in them
//	! shed < 512 1               512 bytes from the server were left out on purpose; one message began in them
//	! rest                       the stream has been silent for a while
//	! close                     the stream ended (implied at the end)
//
// Escapes are \r \n \t \\ \xHH, and \{n} for n bytes of filler.
//
// Play gives one JSON line per exchange and one for the counts. Lose drops a buffer the way the kernel does: the gap is
// known when the next buffer of that side arrives, or at the close, and with it how many heads began inside.
package parsetest

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spile/spile/agent/parse"
)

// Kind of event.
type Kind uint8

const (
	Data Kind = iota
	Gap
	Late
	Close
	Shed
	Rest
)

// Event is one line of a talk.
type Event struct {
	Kind  Kind
	Side  parse.Side
	Data  []byte
	Bytes uint64 // of a gap
	Heads uint32 // in a gap
	At    time.Duration
}

// Read reads a talk.
func Read(text string) ([]Event, error) {
	var talk []Event
	at := time.Duration(0)
	for n, line := range strings.Split(text, "\n") {
		fail := func(what string) error { return fmt.Errorf("read talk: line %d: %s", n+1, what) }
		if line == "" || line[0] == '#' {
			continue
		}
		if len(line) < 2 || line[1] != ' ' {
			return nil, fail("want a mark, a blank and bytes")
		}
		data, err := unescape(line[2:])
		if err != nil {
			return nil, fail(err.Error())
		}
		at += time.Millisecond
		switch line[0] {
		case '>':
			talk = append(talk, Event{Side: parse.Requests, Data: data, At: at})
		case '<':
			talk = append(talk, Event{Side: parse.Responses, Data: data, At: at})
		case '|':
			if len(talk) == 0 || talk[len(talk)-1].Kind != Data {
				return nil, fail("nothing to continue")
			}
			at -= time.Millisecond
			last := &talk[len(talk)-1]
			last.Data = append(last.Data, data...)
		case '!':
			e, ok := event(line[2:])
			if !ok {
				return nil, fail("want late, close, rest, or gap or shed SIDE BYTES HEADS")
			}
			e.At = at
			talk = append(talk, e)
		default:
			return nil, fail("unknown mark")
		}
	}
	return talk, nil
}

func event(s string) (Event, bool) {
	switch s {
	case "late":
		return Event{Kind: Late}, true
	case "close":
		return Event{Kind: Close}, true
	case "rest":
		return Event{Kind: Rest}, true
	}
	var side byte
	e := Event{Kind: Gap}
	if rest, ok := strings.CutPrefix(s, "shed "); ok {
		e.Kind, s = Shed, "gap "+rest
	}
	if n, err := fmt.Sscanf(s, "gap %c %d %d", &side, &e.Bytes, &e.Heads); n != 3 || err != nil {
		return e, false
	}
	if side == '<' {
		e.Side = parse.Responses
	}
	return e, side == '<' || side == '>'
}

func unescape(s string) ([]byte, error) {
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b = append(b, s[i])
			continue
		}
		i++
		if i == len(s) {
			return nil, fmt.Errorf("escape at the end")
		}
		switch s[i] {
		case 'r':
			b = append(b, '\r')
		case 'n':
			b = append(b, '\n')
		case 't':
			b = append(b, '\t')
		case '\\':
			b = append(b, '\\')
		case 'x':
			if i+2 >= len(s) {
				return nil, fmt.Errorf("short \\x")
			}
			v, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return nil, err
			}
			b = append(b, byte(v))
			i += 2
		case '{':
			end := strings.IndexByte(s[i:], '}')
			if end < 0 {
				return nil, fmt.Errorf("open \\{")
			}
			n, err := strconv.ParseUint(s[i+1:i+end], 10, 20)
			if err != nil {
				return nil, err
			}
			b = append(b, strings.Repeat(".", int(n))...)
			i += end
		default:
			return nil, fmt.Errorf("unknown escape \\%c", s[i])
		}
	}
	return b, nil
}
