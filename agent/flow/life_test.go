package flow

import (
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/parse"
)

func TestUnknownProtocolIsMutedOnce(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(5, false)
	c.whole(parse.Requests, "\x16\x03\x01 a handshake of something")
	c.whole(parse.Responses, "220 mail.example ESMTP\r\n")
	c.exchange(true)
	c.close()
	got := w.flow.Counts()
	if len(w.muted) != 1 || w.muted[0] != 5 || got.UnknownProtocol != 1 || got.Muted != 1 {
		t.Errorf("muted %v, %+v", w.muted, got)
	}
	if got.Calls+got.Lost() != 0 || got.MutedChunks < 2 || len(w.flow.streams) != 0 {
		t.Errorf("a muted stream made calls or stayed: %+v", got)
	}
}

func TestUpgradeMutes(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(5, true)
	c.whole(parse.Requests, "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")
	head := "HTTP/1.1 101 Switching Protocols\r\nX-Of: /ws\r\n\r\n"
	c.whole(parse.Responses, head)
	c.whole(parse.Requests, "\x81\x85abcdefghi")
	got := w.flow.Counts()
	if got.Calls != 1 || got.Switched != 1 || got.Abandoned != 0 || len(w.muted) != 1 {
		t.Errorf("%+v, muted %v", got, w.muted)
	}
}

func TestSniffingWaitsForEnoughBytes(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(1, false)
	for _, b := range []byte("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n") {
		c.whole(parse.Requests, string(b))
	}
	for _, b := range []byte("HTTP/1.1 200 OK\r\nX-Of: /slow\r\nContent-Length: 0\r\n\r\n") {
		c.whole(parse.Responses, string(b))
	}
	if len(w.calls) != 1 || w.calls[0] != "/slow" {
		t.Errorf("%v %+v", w.calls, w.flow.Counts())
	}
}

func TestWhatComesTwiceIsDropped(t *testing.T) {
	w := newWorld(t, 1, 0)
	f := w.flow
	c := w.dial(1, false)
	request := []byte("GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
	e := c.chunk(chunk.Data, chunk.Ingress)
	e.Data, e.Length, e.Heads, e.Flags = request, uint32(len(request)), 1, e.Flags|chunk.Head
	f.Feed(&e)
	f.Feed(&e)
	// The second half again, and one more request behind it.
	more := append(request[10:len(request):len(request)], "GET /b HTTP/1.1\r\nHost: a\r\n\r\n"...)
	e.Data, e.Length, e.Offset, e.Heads = more, uint32(len(more)), 10, 2
	f.Feed(&e)
	for _, of := range []string{"/a", "/b"} {
		head := "HTTP/1.1 200 OK\r\nX-Of: " + of + "\r\nContent-Length: 0\r\n\r\n"
		c.whole(parse.Responses, head)
	}
	if got := f.Counts(); got.Calls != 2 || got.Duplicates != 2 || got.Gaps != 0 {
		t.Errorf("%+v", got)
	}
}

func TestCloseWaitsThenCountsWhatIsMissing(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(1, false)
	c.exchange(true)
	w.lose = 1
	c.exchange(true)
	c.close()
	if got := w.flow.Counts(); got.Lost() != 0 || len(w.flow.streams) != 1 {
		t.Fatalf("settled at once: %+v", got)
	}
	w.flow.Tick(w.clock + straggle)
	if got := w.flow.Counts(); got.Calls != 1 || got.LostServer != 1 || len(w.flow.streams) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestStragglersCompleteAClose(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(1, false)
	c.whole(parse.Requests, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
	head := "HTTP/1.1 200 OK\r\nX-Of: /a\r\nContent-Length: 0\r\n\r\n"
	last := c.chunk(chunk.Data, chunk.Egress)
	last.Data, last.Length, last.Heads, last.Flags = []byte(head), uint32(len(head)), 1, last.Flags|chunk.Head
	c.offset[chunk.Egress], c.heads[chunk.Egress] = uint64(len(head)), 1
	c.close()
	w.flow.Feed(&last)
	if got := w.flow.Counts(); got.Calls != 1 || got.Lost() != 0 || len(w.flow.streams) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestIdleStreamsParkAndGoOn(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(1, false)
	for range 3 {
		c.exchange(true)
		w.clock += defaultIdle
		w.flow.Tick(w.clock)
		if s := w.flow.streams[1]; s == nil || s.parser != nil {
			t.Fatal("not parked")
		}
	}
	c.close()
	if got := w.flow.Counts(); got.Calls != 3 || got.Idle != 3 || got.Lost() != 0 {
		t.Errorf("%+v", got)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	w := newWorld(t, 1, 0)
	w.flow.cfg.MaxStreams = 10
	for id := range 100 {
		c := w.dial(id+1, false)
		c.whole(parse.Requests, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
		if n := len(w.flow.streams); n > 20 {
			t.Fatalf("%d streams", n)
		}
	}
	got := w.flow.Counts()
	if got.Evicted != 90 || got.Forgotten != 80 || got.Unanswered != 90 {
		t.Errorf("%+v", got)
	}
}

func TestBufferedBytesAreBounded(t *testing.T) {
	w := newWorld(t, 1, 0)
	w.flow.cfg.MaxBuffered = 100 << 10
	body := strings.Repeat("b", 1000)
	for id := range 500 {
		c := w.dial(id+1, false)
		data := "POST /a HTTP/1.1\r\nContent-Length: 2000\r\n\r\n" + body
		c.whole(parse.Requests, data)
		if w.flow.buffered > 101<<10 {
			t.Fatalf("%d bytes", w.flow.buffered)
		}
	}
	if w.flow.Counts().Evicted == 0 {
		t.Error("nothing evicted")
	}
	w.flow.Flush()
	if w.flow.buffered != 0 || w.flow.Counts().Unanswered != 500 {
		t.Errorf("%d bytes, %+v", w.flow.buffered, w.flow.Counts())
	}
}

func TestJoinedLateInABody(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(1, false)
	c.fresh = false
	c.whole(parse.Requests, "the rest of an upload")
	old := "HTTP/1.1 200 OK\r\nX-Of: /before\r\nContent-Length: 0\r\n\r\n"
	c.whole(parse.Responses, old)
	c.exchange(true)
	c.exchange(true)
	c.close()
	got := w.flow.Counts()
	if got.Calls != 2 || got.LateJoin != 1 || got.Lost()+got.Unanswered != 0 {
		t.Errorf("%+v", got)
	}
}

func TestEveryCounterHasAName(t *testing.T) {
	seen := map[string]bool{}
	Counts{}.Each(func(name string, _ uint64) {
		if seen[name] {
			t.Errorf("%s twice", name)
		}
		seen[name] = true
	})
	for _, name := range []string{"chunks", "lost_calls", "lost_http1", "lost_http2", "unanswered", "malformed", "evicted"} {
		if !seen[name] {
			t.Errorf("no %s", name)
		}
	}
}

func TestUnseenBytesAreAGap(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(1, false)
	c.whole(parse.Requests, "GET /file HTTP/1.1\r\nHost: a\r\n\r\n")
	head := "HTTP/1.1 200 OK\r\nX-Of: /file\r\nContent-Length: 5000\r\n\r\n"
	c.whole(parse.Responses, head)
	e := c.chunk(chunk.Data, chunk.Egress)
	e.Offset, e.Length, e.Heads, e.Flags = uint64(len(head)), 5000, 1, e.Flags|chunk.Unseen
	var x parse.Exchange
	w.flow.cfg.Emit = func(_ *Stream, got *parse.Exchange) { x = *got; m := *got.Response; x.Response = &m }
	w.flow.Feed(&e)
	if x.Response == nil || !x.Gap || x.Response.BodyBytes != 5000 || !x.Response.BodyTruncated || !x.Response.Complete {
		t.Errorf("%+v %+v", x, x.Response)
	}
	if d := time.Duration(0); x.Response != nil && x.Response.End <= d {
		t.Error("no end")
	}
}

func TestUnreadableHeadIsALostCall(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(1, false)
	c.exchange(true)
	e := c.chunk(chunk.Data, chunk.Ingress)
	c.heads[chunk.Ingress]++
	e.Offset, e.Length, e.Heads = c.offset[chunk.Ingress], 40, c.heads[chunk.Ingress]
	e.Flags |= chunk.Fault | chunk.Head
	c.offset[chunk.Ingress] += 40
	w.flow.Feed(&e)
	head := "HTTP/1.1 200 OK\r\nX-Of: /unread\r\nContent-Length: 0\r\n\r\n"
	c.whole(parse.Responses, head)
	c.exchange(true)
	c.exchange(true)
	c.close()
	if got := w.flow.Counts(); got.Calls != 3 || got.LostServer != 1 || got.Unanswered != 0 {
		t.Errorf("%+v", got)
	}
}
