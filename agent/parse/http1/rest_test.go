package http1

import (
	"testing"
	"time"

	"github.com/spile/spile/agent/parse"
)

// After a loss a pair waits for proof. Silence is one, if each request has one response; else the pair waits on.
func TestSilenceIsProof(t *testing.T) {
	const request, response = "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for _, c := range []struct {
		name          string
		late          bool
		before, heads uint32 // requests and responses that were lost before the pair
		emitted       uint64
	}{
		{"one of each was lost", false, 1, 1, 1},
		{"two requests hide one response", false, 2, 1, 0},
		{"joined late, and lost since", true, 1, 1, 0},
	} {
		n := 0
		p := New(small(), c.late, func(*parse.Exchange) { n++ })
		feed := func(side parse.Side, s string) {
			if err := p.Feed(side, []byte(s), 1); err != nil {
				t.Fatal(err)
			}
		}
		feed(parse.Requests, request)
		feed(parse.Responses, response)
		first := p.Counts().Emitted
		p.Gap(parse.Requests, 40, c.before, 2)
		p.Gap(parse.Responses, 40, c.heads, 2)
		feed(parse.Requests, request)
		feed(parse.Responses, response)
		if got := p.Counts().Emitted; got != first {
			t.Errorf("%s: handed out without proof", c.name)
		}
		waits := p.Rest(time.Second)
		if got := p.Counts().Emitted - first; got != c.emitted || waits != (c.emitted == 0 && p.doubted != nil) {
			t.Errorf("%s: %d handed out, waits %v: %+v", c.name, got, waits, p.Counts())
		}
		p.Close(time.Minute)
		if p.Rest(time.Minute) {
			t.Errorf("%s: waits after the end", c.name)
		}
		if got := p.Counts(); got.Emitted+got.Lost+got.Unanswered != uint64(2+c.before) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}
