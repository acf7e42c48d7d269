package parsetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spile/spile/agent/parse"
)

// Maker makes the parser under test.
type Maker func(late bool, emit func(*parse.Exchange)) parse.Parser

// Seen is what a parser made of a talk.
type Seen struct {
	Exchanges []Exchange
	Counts    parse.Counts
	Err       string // what Feed said, if anything
}

// Exchange is a copy of a parse.Exchange, as it is written to a .want file.
type Exchange struct {
	Ordinal  uint64  `json:"ordinal"`
	Late     bool    `json:"late,omitempty"`
	Gap      bool    `json:"gap,omitempty"`
	Request  Message `json:"request"`
	Response Message `json:"response"`
}

// Message is a copy of a parse.Message; times are milliseconds.
type Message struct {
	Protocol  string        `json:"protocol"`
	Method    string        `json:"method,omitempty"`
	Target    string        `json:"target,omitempty"`
	Authority string        `json:"authority,omitempty"`
	Scheme    string        `json:"scheme,omitempty"`
	Status    int           `json:"status,omitempty"`
	Shed      bool          `json:"shed,omitempty"`
	Header    []parse.Field `json:"header,omitempty"`
	Trailer   []parse.Field `json:"trailer,omitempty"`
	Body      string        `json:"body,omitempty"`
	BodyBytes uint64        `json:"body_bytes,omitempty"`
	Times     [3]int64      `json:"times"`
	Complete  bool          `json:"complete"`
	Truncated bool          `json:"truncated,omitempty"`
	Unknown   int           `json:"unknown,omitempty"`
}

func message(m *parse.Message) Message {
	ms := func(d time.Duration) int64 { return d.Milliseconds() }
	return Message{
		Protocol: strings.Clone(m.Protocol), Method: strings.Clone(m.Method), Target: strings.Clone(m.Target),
		Authority: strings.Clone(m.Authority), Scheme: strings.Clone(m.Scheme),
		Status: m.Status, Shed: m.Shed, Header: fields(m.Header), Trailer: fields(m.Trailer),
		Body: string(m.Body), BodyBytes: m.BodyBytes, Times: [3]int64{ms(m.Start), ms(m.HeadEnd), ms(m.End)},
		Complete: m.Complete, Truncated: m.BodyTruncated, Unknown: m.UnknownHeaders,
	}
}

// fields copies fields, which are pieces of a message's text.
func fields(list []parse.Field) []parse.Field {
	list = slices.Clone(list)
	for i, f := range list {
		list[i] = parse.Field{Name: strings.Clone(f.Name), Value: strings.Clone(f.Value)}
	}
	return list
}

// Play replays a talk. It checks what must hold for any talk: only exchanges with whole heads are emitted, and the
// counts agree with them.
func Play(talk []Event, make Maker) (Seen, error) {
	var s Seen
	var wrong error
	late := len(talk) > 0 && talk[0].Kind == Late
	p := make(late, func(x *parse.Exchange) {
		if !x.Seen() {
			wrong = fmt.Errorf("emitted an exchange without both heads: %+v", x)
			return
		}
		s.Exchanges = append(s.Exchanges, Exchange{x.Ordinal, x.LateJoin, x.Gap, message(x.Request), message(x.Response)})
	})
	at := time.Duration(0)
	for _, e := range talk {
		at = e.At
		switch e.Kind {
		case Data:
			if s.Err != "" {
				continue
			}
			data := bytes.Clone(e.Data)
			if err := p.Feed(e.Side, data, e.At); err != nil {
				s.Err = err.Error()
			}
			// A parser keeps no reference to what it was fed.
			for i := range data {
				data[i] = 0xff
			}
		case Gap:
			if s.Err == "" {
				p.Gap(e.Side, e.Bytes, e.Heads, e.At)
			}
		case Shed:
			if s.Err == "" {
				p.Shed(e.Side, e.Bytes, e.Heads, e.At)
			}
		case Rest:
			p.Rest(e.At)
		case Close:
			p.Close(e.At)
		}
	}
	p.Close(at)
	s.Counts = p.Counts()
	if wrong == nil && s.Counts.Emitted != uint64(len(s.Exchanges)) {
		wrong = fmt.Errorf("counts say %d emitted, saw %d", s.Counts.Emitted, len(s.Exchanges))
	}
	return s, wrong
}

// Lines writes what was seen, one JSON line each.
func (s Seen) Lines() string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, x := range s.Exchanges {
		_ = enc.Encode(x) // a bytes.Buffer takes everything
	}
	_ = enc.Encode(struct {
		Emitted, Lost, Unanswered, Malformed uint64
		Err                                  string `json:",omitempty"`
	}{s.Counts.Emitted, s.Counts.Lost, s.Counts.Unanswered, s.Counts.Malformed, s.Err})
	return b.String()
}

// Requests is how many requests the counts account for.
func (s Seen) Requests() uint64 { return s.Counts.Emitted + s.Counts.Lost + s.Counts.Unanswered }

// Split cuts buffer i in two at byte n.
func Split(talk []Event, i, n int) []Event {
	a, b := talk[i], talk[i]
	a.Data, b.Data = a.Data[:n:n], b.Data[n:]
	return slices.Concat(talk[:i:i], []Event{a, b}, talk[i+1:])
}

// Bytewise cuts every buffer into single bytes.
func Bytewise(talk []Event) []Event {
	var out []Event
	for _, e := range talk {
		if e.Kind != Data {
			out = append(out, e)
			continue
		}
		for i := range e.Data {
			piece := e
			piece.Data = e.Data[i : i+1]
			out = append(out, piece)
		}
	}
	return out
}

// Lose drops the buffers for which lost is true. heads says how many messages the kernel saw begin in a buffer.
func Lose(talk []Event, lost func(i int) bool, heads func(e Event) uint32) []Event {
	var out []Event
	var pending [2]Event
	flush := func(side parse.Side, at time.Duration) {
		if g := pending[side]; g.Bytes > 0 {
			g.Kind, g.Side, g.At = Gap, side, at
			out = append(out, g)
			pending[side] = Event{}
		}
	}
	for i, e := range talk {
		switch {
		case e.Kind == Data && lost(i):
			pending[e.Side].Bytes += uint64(len(e.Data))
			pending[e.Side].Heads += heads(e)
			continue
		case e.Kind == Data || e.Kind == Gap || e.Kind == Shed:
			flush(e.Side, e.At)
		case e.Kind == Close:
			flush(parse.Requests, e.At)
			flush(parse.Responses, e.At)
		}
		out = append(out, e)
	}
	if n := len(talk); n > 0 {
		flush(parse.Requests, talk[n-1].At)
		flush(parse.Responses, talk[n-1].At)
	}
	return out
}

// Agree checks a replay with losses against the whole one: each exchange in it is one of the whole, with the same
// heads; a body that differs is marked; and every request is accounted for.
func Agree(whole, lossy Seen) error {
	type key struct{ head string }
	heads := func(x Exchange) key {
		return key{fmt.Sprint(x.Request.Method, x.Request.Target, x.Request.Header, x.Response.Status, x.Response.Header)}
	}
	left := map[key][]Exchange{}
	for _, x := range whole.Exchanges {
		left[heads(x)] = append(left[heads(x)], x)
	}
	for _, x := range lossy.Exchanges {
		same := left[heads(x)]
		if len(same) == 0 {
			return fmt.Errorf("a pair that never was: %+v", x)
		}
		w := same[0]
		left[heads(x)] = same[1:]
		for _, m := range [][2]Message{{w.Request, x.Request}, {w.Response, x.Response}} {
			if m[0].Body != m[1].Body && !m[1].Truncated && m[1].Complete {
				return fmt.Errorf("body %q became %q without a mark", m[0].Body, m[1].Body)
			}
		}
	}
	if whole.Requests() != lossy.Requests() {
		return fmt.Errorf("%d requests, accounted for %d: %+v", whole.Requests(), lossy.Requests(), lossy.Counts)
	}
	return nil
}
