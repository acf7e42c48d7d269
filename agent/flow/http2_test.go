package flow

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/spile/spile/agent/parse"
)

// talker writes frames of one side.
type talker struct {
	out   bytes.Buffer
	block bytes.Buffer
	enc   *hpack.Encoder
	fr    *http2.Framer
}

func newTalker() *talker {
	t := &talker{}
	t.enc = hpack.NewEncoder(&t.block)
	t.fr = http2.NewFramer(&t.out, nil)
	return t
}

func (t *talker) headers(id uint32, fields ...string) string {
	t.out.Reset()
	t.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = t.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = t.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: t.block.Bytes(), EndHeaders: true, EndStream: true})
	return t.out.String()
}

func (t *talker) settings() string {
	t.out.Reset()
	_ = t.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 100})
	return t.out.String()
}

func TestHTTP2FromEitherEnd(t *testing.T) {
	for _, tc := range []struct {
		name          string
		client, fresh bool
		serverFirst   bool
		want          uint64
	}{
		{"server end", false, true, false, 2},
		{"client end", true, true, false, 2},
		{"server speaks first", false, true, true, 2},
		{"late", false, false, false, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, 1, 0)
			c := w.dial(1, tc.client)
			c.fresh = tc.fresh
			cl, sv := newTalker(), newTalker()
			if tc.serverFirst {
				c.whole(parse.Responses, sv.settings())
			}
			if tc.fresh {
				c.whole(parse.Requests, http2.ClientPreface+cl.settings())
			}
			for id := uint32(1); id <= 3; id += 2 {
				c.whole(parse.Requests, cl.headers(id, ":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/x"))
				c.whole(parse.Responses, sv.headers(id, ":status", "200", "x-of", "/x"))
			}
			c.close()
			got := w.flow.Counts()
			if got.Calls != tc.want || got.Lost() != 0 || got.Muted != 0 {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestHTTP2LossIsCountedAtItsEnd(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(1, true)
	cl, sv := newTalker(), newTalker()
	c.whole(parse.Requests, http2.ClientPreface+cl.settings())
	for id := uint32(1); id <= 9; id += 2 {
		w.lose = 0
		if id == 3 || id == 5 {
			w.lose = 1
		}
		c.whole(parse.Requests, cl.headers(id, ":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/"))
		w.lose = 0
		c.whole(parse.Responses, sv.headers(id, ":status", "200", "x-of", "/"))
	}
	c.close()
	got := w.flow.Counts()
	if got.Calls != 3 || got.LostClient != 2 || got.LostServer != 0 || got.LostBy[1] != 2 {
		t.Errorf("%+v", got)
	}
}
