package flow

import (
	"fmt"
	"slices"
	"testing"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/parse"
)

// talk is one random conversation: it says one more exchange each time, and knows how many requests it sent.
type talk struct {
	*wire
	sent   uint64
	h2     bool
	cl, sv *talker
	next   uint32
}

func (w *world) talk(id int) *talk {
	t := &talk{wire: w.dial(id, w.rng.IntN(2) == 0), h2: w.rng.IntN(2) == 0, cl: newTalker(), sv: newTalker(), next: 1}
	t.fresh = w.rng.IntN(4) > 0
	if t.h2 && t.fresh {
		t.whole(parse.Requests, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+t.cl.settings())
	}
	return t
}

func (t *talk) step(last bool) {
	t.sent++
	if !t.h2 { // only the last answer may be missing: HTTP/1 answers in order
		t.exchange(!last || t.rng.IntN(2) == 0)
		return
	}
	first, then := []string{":method", "GET"}, []string{":authority", "a"}
	if t.id%2 == 0 { // as Go does; joined late, nothing about it looks like a request
		first, then = then, first
	}
	t.frames(parse.Requests, t.cl.headers(t.next, slices.Concat(first, then, []string{":scheme", "https", ":path", path(t.next)})...), 1)
	if t.rng.IntN(20) > 0 {
		t.frames(parse.Responses, t.sv.headers(t.next, ":status", "200", "x-of", path(t.next)), 0)
	}
	t.next += 2
}

// Many connections at once, in few places, with losses: each has an account of its own, and it is what was sent on it.
func TestEachStreamHasItsAccount(t *testing.T) {
	var total Told
	var all Counts
	for seed := range uint64(1200) {
		w := newWorld(t, seed, []float64{0, 0.05, 0.3, 0.8, 1}[seed%5])
		switch seed % 4 {
		case 1:
			w.flow.cfg.MaxStreams = 6 // the rest is evicted, and comes back
		case 2:
			w.flow.cfg.MaxBuffered = 600
		}
		var talks []*talk
		for id := range 12 {
			talks = append(talks, w.talk(id+1))
		}
		for range 100 {
			talks[w.rng.IntN(len(talks))].step(false)
			if w.rng.IntN(8) == 0 {
				w.clock += rest
				w.flow.Tick(w.clock)
			}
			if seed%4 == 3 && w.rng.IntN(10) == 0 {
				w.clock += defaultIdle
				w.flow.Tick(w.clock)
			}
		}
		for _, c := range talks {
			c.step(true)
			c.close()
		}
		w.flow.Tick(w.clock + straggle)
		var sum Told
		for _, c := range talks {
			got := w.told[c.id]
			if got.sum() != c.sent {
				t.Fatalf("seed %d, stream %d (h2 %v, client %v, fresh %v): sent %d, %+v", seed, c.id, c.h2, c.client, c.fresh, c.sent, got)
			}
			sum = sum.plus(got)
		}
		if got := w.flow.Counts(); got.Calls != sum.Calls || got.Lost() != sum.Lost || got.Unanswered != sum.Unanswered {
			t.Fatalf("seed %d: streams add up to %+v, the counts say %+v", seed, sum, got)
		}
		total = total.plus(sum)
		all.Evicted += w.flow.Counts().Evicted
		all.Idle += w.flow.Counts().Idle
		all.Forgotten += w.flow.Counts().Forgotten
	}
	if total.Calls == 0 || total.Lost == 0 || total.Unanswered == 0 || all.Evicted == 0 || all.Idle == 0 {
		t.Errorf("the test shows nothing: %+v, %+v", total, all)
	}
	t.Logf("%+v; %d evicted, %d idle, %d forgotten", total, all.Evicted, all.Idle, all.Forgotten)
}

// A stream whose socket is found later: calls that end before have no peer, calls that end after have it, and no
// request is counted twice.
func TestASocketFoundLater(t *testing.T) {
	for _, found := range []parse.Side{parse.Requests, parse.Responses} {
		w := newWorld(t, 1, 0)
		var peers []string
		w.flow.cfg.Emit = func(s *Stream, x *parse.Exchange) {
			peers = append(peers, fmt.Sprint(x.Request.Target, " ", s.Unbound, " ", s.Conn, " ", s.ConnBirth, " ", s.Remote))
		}
		c := w.dial(1, false)
		c.conn = 0
		for i := range 3 {
			if i == 1 && found == parse.Requests {
				c.conn = 9
			}
			c.whole(parse.Requests, fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i))
			if i == 1 {
				c.conn = 9
			}
			c.whole(parse.Responses, "HTTP/1.1 204 No Content\r\n\r\n")
		}
		c.close()
		want := []string{"/0 true 0 0s invalid AddrPort", "/1 false 9 9ns 127.0.0.1:40009", "/2 false 9 9ns 127.0.0.1:40009"}
		if fmt.Sprint(peers) != fmt.Sprint(want) {
			t.Errorf("%q, want %q", peers, want)
		}
		if got := w.flow.Counts(); got.Streams != 1 || got.LateJoin != 0 || w.told[1] != (Told{Calls: 3}) || got.Moved != 0 {
			t.Errorf("%+v %+v", w.told, got)
		}
	}
}

// Go's first write makes the handshake, and is seen before it: only what follows says that the stream is whole.
func TestAStreamIsKnownToBeWholeLater(t *testing.T) {
	w := newWorld(t, 1, 0)
	var streams []Stream
	w.flow.cfg.Emit = func(s *Stream, x *parse.Exchange) {
		if x.LateJoin {
			t.Errorf("%s counts as joined late", x.Request.Target)
		}
		streams = append(streams, *s)
	}
	c := w.dial(1, true)
	c.conn, c.fresh = 0, false
	c.whole(parse.Requests, "GET /0 HTTP/1.1\r\nHost: a\r\n\r\n")
	c.conn, c.fresh = 9, true
	c.whole(parse.Responses, "HTTP/1.1 204 No Content\r\n\r\n")
	c.whole(parse.Requests, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
	c.whole(parse.Responses, "HTTP/1.1 204 No Content\r\n\r\n")
	c.close()
	if len(streams) != 2 || !streams[0].Fresh || streams[0].Unbound || streams[0].Gapped {
		t.Errorf("%+v", streams)
	}
}

// The end of a stream may be the first to know its socket; what was open till then has its peer.
func TestASocketFoundAtTheEnd(t *testing.T) {
	w := newWorld(t, 1, 0)
	var got Stream
	w.flow.cfg.Emit = func(s *Stream, _ *parse.Exchange) { got = *s }
	c := w.dial(1, false)
	c.conn = 0
	c.whole(parse.Requests, "GET / HTTP/1.0\r\n\r\n")
	c.whole(parse.Responses, "HTTP/1.0 200 OK\r\n\r\nuntil the end")
	c.conn = 9
	c.close()
	if got.Unbound || got.Conn != 9 || !got.Remote.IsValid() || w.told[1].Calls != 1 {
		t.Errorf("%+v %+v", got, w.told)
	}
}

// An SSL object that is used again: the kernel ends the stream and begins another. Should it fail to, what is open on
// the old connection stays there.
func TestNothingLeaksToAnotherConnection(t *testing.T) {
	for _, announced := range []bool{true, false} {
		for seed := range uint64(200) {
			w := newWorld(t, seed, []float64{0, 0.3}[seed%2])
			emit := w.flow.cfg.Emit
			w.flow.cfg.Emit = func(s *Stream, x *parse.Exchange) {
				emit(s, x)
				if of, _, _ := cutPath(x.Request.Target); of != fmt.Sprint(s.Conn) || s.Remote.Port() != 40000+uint16(s.Conn) {
					t.Fatalf("seed %d: %s on connection %d to %s", seed, x.Request.Target, s.Conn, s.Remote)
				}
			}
			c := w.dial(1, false)
			sent := map[chunk.ConnID]uint64{}
			for conn := chunk.ConnID(1); conn <= 3; conn++ {
				c.conn = conn
				for range 4 {
					c.of(conn)
					sent[conn]++
				}
				c.whole(parse.Requests, fmt.Sprintf("GET /%d/open HTTP/1.1\r\nHost: a\r\n\r\n", conn))
				sent[conn]++
				if announced {
					c.close()
					next := w.dial(int(c.id)+1, false)
					c = next
				}
			}
			w.flow.Flush()
			var got, want uint64
			for conn, n := range sent {
				got, want = got+w.ends[conn].sum(), want+n
				if w.lose == 0 && (w.ends[conn].sum() != n || w.ends[conn].Unanswered != 1) {
					t.Fatalf("seed %d: connection %d: %d sent, %+v", seed, conn, n, w.ends[conn])
				}
			}
			if announced && got != want {
				t.Fatalf("seed %d: %d sent, %d accounted for", seed, want, got)
			}
			if moved := w.flow.Counts().Moved; announced && moved != 0 || !announced && w.lose == 0 && moved != 2 {
				t.Fatalf("%d moved", moved)
			}
		}
	}
}

func cutPath(s string) (of, name string, ok bool) {
	_, err := fmt.Sscanf(s, "/%s", &name)
	for i := range name {
		if name[i] == '/' {
			return name[:i], name[i+1:], true
		}
	}
	return "", name, err == nil
}

// of says one exchange that names its connection.
func (w *wire) of(conn chunk.ConnID) {
	name := fmt.Sprintf("/%d/%d", conn, w.offset[0])
	w.whole(parse.Requests, "GET "+name+" HTTP/1.1\r\nHost: a\r\n\r\n")
	w.whole(parse.Responses, "HTTP/1.1 204 No Content\r\nX-Of: "+name+"\r\n\r\n")
}
