package http2

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/agent/parse/parsetest"
)

// dialog writes a conversation with x/net's encoder. Each call of client or server is one captured buffer.
type dialog struct {
	t    *testing.T
	ends [2]end
	talk []parsetest.Event
	at   time.Duration
}

// end is one sender.
type end struct {
	out    bytes.Buffer
	frames *http2.Framer
	block  bytes.Buffer
	enc    *hpack.Encoder
}

func newDialog(t *testing.T) *dialog {
	d := &dialog{t: t}
	for i := range d.ends {
		e := &d.ends[i]
		e.frames = http2.NewFramer(&e.out, nil)
		e.frames.AllowIllegalWrites = true
		e.enc = hpack.NewEncoder(&e.block)
	}
	return d
}

// say makes one buffer of what write writes.
func (d *dialog) say(side parse.Side, write func(e *end)) {
	e := &d.ends[side]
	write(e)
	d.at += time.Millisecond
	d.talk = append(d.talk, parsetest.Event{Side: side, Data: bytes.Clone(e.out.Bytes()), At: d.at})
	e.out.Reset()
}

func (d *dialog) client(write func(e *end)) { d.say(parse.Requests, write) }
func (d *dialog) server(write func(e *end)) { d.say(parse.Responses, write) }

func (d *dialog) mark(kind parsetest.Kind) {
	d.talk = append(d.talk, parsetest.Event{Kind: kind, At: d.at})
}

// hello is how both sides begin.
func (d *dialog) hello() {
	d.client(func(e *end) { e.out.WriteString(preface); e.settings() })
	d.server(func(e *end) { e.settings(); e.ack() })
	d.client(func(e *end) { e.ack() })
}

// lose takes the last buffer away, as a gap.
func (d *dialog) lose() {
	last := &d.talk[len(d.talk)-1]
	*last = parsetest.Event{Kind: parsetest.Gap, Side: last.Side, Bytes: uint64(len(last.Data)), At: last.At}
}

func (e *end) settings(s ...http2.Setting) { _ = e.frames.WriteSettings(s...) }
func (e *end) ack()                        { _ = e.frames.WriteSettingsAck() }

// fields encodes "name=value" pairs.
func (e *end) fields(list ...string) []byte {
	e.block.Reset()
	for _, f := range list {
		i := strings.IndexByte(f[1:], '=') + 1
		_ = e.enc.WriteField(hpack.HeaderField{Name: f[:i], Value: f[i+1:]})
	}
	return bytes.Clone(e.block.Bytes())
}

func (e *end) headers(id uint32, last bool, list ...string) {
	_ = e.frames.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: e.fields(list...), EndStream: last, EndHeaders: true,
	})
}

func (e *end) get(id uint32, path string, more ...string) {
	e.headers(id, true, append([]string{":method=GET", ":scheme=https", ":authority=a.example", ":path=" + path}, more...)...)
}

func (e *end) post(id uint32, path string, more ...string) {
	e.headers(id, false, append([]string{":method=POST", ":scheme=https", ":authority=a.example", ":path=" + path}, more...)...)
}

func (e *end) ok(id uint32, body string, more ...string) {
	e.headers(id, body == "", append([]string{":status=200"}, more...)...)
	if body != "" {
		e.data(id, true, body)
	}
}

func (e *end) data(id uint32, last bool, body string) { _ = e.frames.WriteData(id, last, []byte(body)) }
func (e *end) reset(id uint32)                        { _ = e.frames.WriteRSTStream(id, http2.ErrCodeCancel) }
