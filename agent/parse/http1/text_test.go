package http1

import (
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/parse"
)

// What a message said is gone from its memory when it is handed back, and a new message does not change one that is held.
func TestTextsDieWithTheirMessage(t *testing.T) {
	var path string
	p := New(parse.DefaultLimits(), false, func(x *parse.Exchange) {
		if path = x.Request.Target; path != "/first" && path != "/second" {
			t.Errorf("target %q", path)
		}
		if v := x.Response.Header[0].Value; v != "0" {
			t.Errorf("length %q", v)
		}
	})
	ask, answer := "GET /first HTTP/1.1\r\n\r\nGET /second HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for i, feed := range []struct {
		side parse.Side
		text string
	}{{parse.Requests, ask}, {parse.Responses, answer}, {parse.Responses, answer}} {
		if err := p.Feed(feed.side, []byte(feed.text), time.Duration(i)); err != nil {
			t.Fatal(err)
		}
		if i > 0 && path != strings.Repeat("\x00", len(path)) {
			t.Errorf("after it was handed back, a message says %q", path)
		}
	}
	if n := p.Counts().Emitted; n != 2 {
		t.Errorf("%d exchanges", n)
	}
}
