package flow

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spile/spile/agent/parse"
)

// capped says a message as a kernel does that copies at most limit bytes of it, in pieces; the first holds the head. A
// piece of budget 0 is not copied at all, head or not.
func (w *wire) capped(side parse.Side, head, body string, limit int, broke bool) {
	data, left := head+body, limit
	for first := true; len(data) > 0; first = false {
		n := 1 + w.rng.IntN(4000)
		if first {
			n = max(n, len(head))
		}
		n = min(n, len(data))
		captured := min(n, left)
		if broke {
			captured = 0
		}
		w.say(side, data[:n], captured)
		left -= captured
		data = data[n:]
	}
}

func framed(head, body string, chunked bool) (string, string) {
	if chunked && body == "" {
		return head + "Transfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n"
	}
	if chunked {
		return head + "Transfer-Encoding: chunked\r\n\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	}
	return fmt.Sprintf("%sContent-Length: %d\r\n\r\n", head, len(body)), body
}

// Bodies beyond the cap, of either framing, on connections that are kept alive: no call is lost or doubled, each is as
// long as it was or says that it was cut, and nothing counts as missed.
func TestBodiesBeyondTheCap(t *testing.T) {
	for seed := range uint64(400) {
		w := newWorld(t, seed, 0)
		emit, n := w.flow.cfg.Emit, 0
		sizes := map[string][2]int{}
		w.flow.cfg.Emit = func(s *Stream, x *parse.Exchange) {
			emit(s, x)
			n++
			if s.Gapped || x.Gap {
				t.Fatalf("seed %d: %s counts as missed", seed, x.Request.Target)
			}
			for i, m := range []*parse.Message{x.Request, x.Response} {
				size := uint64(sizes[x.Request.Target][i])
				switch {
				case m.Complete && m.BodyBytes != size:
					t.Fatalf("seed %d: %s %d: %d bytes of %d", seed, x.Request.Target, i, m.BodyBytes, size)
				case !m.Complete && (!m.BodyTruncated || m.BodyBytes < size || m.BodyBytes > size+16):
					t.Fatalf("seed %d: %s %d: cut to %d bytes of %d, truncated %v", seed, x.Request.Target, i, m.BodyBytes, size, m.BodyTruncated)
				}
			}
		}
		c := w.dial(1, w.rng.IntN(2) == 0)
		const calls = 8
		for i := range calls {
			name := fmt.Sprintf("/1/%d", i)
			up, down := w.rng.IntN(3)*9000, w.rng.IntN(3)*9000
			sizes[name] = [2]int{up, down}
			head, body := framed("PUT "+name+" HTTP/1.1\r\nHost: a\r\n", strings.Repeat("u", up), w.rng.IntN(2) == 0)
			c.capped(parse.Requests, head, body, 5000, false)
			head, body = framed("HTTP/1.1 200 OK\r\nX-Of: "+name+"\r\n", strings.Repeat("d", down), w.rng.IntN(2) == 0)
			c.capped(parse.Responses, head, body, 5000, false)
		}
		c.close()
		if got := w.told[1]; got != (Told{Calls: calls}) || n != calls {
			t.Fatalf("seed %d: %+v, %d emitted: %+v", seed, got, n, w.flow.Counts())
		}
	}
}

// A budget that runs out takes whole messages, and the ring loses some besides: the account stays exact.
func TestBudgetsAndLossesAreCounted(t *testing.T) {
	var total Told
	for seed := range uint64(1000) {
		w := newWorld(t, seed, []float64{0, 0.1, 0.4}[seed%3])
		c := w.dial(1, seed%2 == 0)
		sent := uint64(0)
		for range 12 {
			name := fmt.Sprintf("/1/%d", sent)
			sent++
			broke := w.rng.IntN(4) == 0
			head, body := framed("PUT "+name+" HTTP/1.1\r\nHost: a\r\n", strings.Repeat("u", w.rng.IntN(2)*6000), w.rng.IntN(2) == 0)
			c.capped(parse.Requests, head, body, 3000, broke)
			broke = broke && w.rng.IntN(2) == 0
			head, body = framed("HTTP/1.1 200 OK\r\nX-Of: "+name+"\r\n", strings.Repeat("d", w.rng.IntN(2)*6000), w.rng.IntN(2) == 0)
			c.capped(parse.Responses, head, body, 3000, broke)
		}
		c.close()
		w.flow.Tick(w.clock + straggle)
		if got := w.told[1]; got.sum() != sent {
			t.Fatalf("seed %d: sent %d, %+v", seed, sent, got)
		}
		total = total.plus(w.told[1])
	}
	if total.Calls == 0 || total.Lost == 0 {
		t.Error("the test shows nothing")
	}
	t.Logf("%+v", total)
}

// A long answer whose end nobody sees, on a connection that then is silent: its call does not wait for the next one.
func TestSilenceEndsWhatIsAdrift(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(1, false)
	for i := range 3 {
		c.whole(parse.Requests, fmt.Sprintf("PUT /%d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\nuu", i))
		c.say(parse.Requests, strings.Repeat("u", 9000), 0)
		c.whole(parse.Responses, fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Of: /%d\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\ndd", i))
		c.say(parse.Responses, strings.Repeat("d", 9000), 0)
		w.clock += rest / 2
		w.flow.Tick(w.clock)
		c.say(parse.Responses, strings.Repeat("d", 500), 0) // it goes on
		w.clock += rest - 1
		w.flow.Tick(w.clock)
		if len(w.calls) != i {
			t.Fatalf("%d calls before the %dth was silent", len(w.calls), i)
		}
		for range 2 {
			w.clock += rest
			w.flow.Tick(w.clock)
		}
		if len(w.calls) != i+1 || w.told[1].Calls != uint64(i+1) {
			t.Fatalf("%d calls after the %dth, %+v", len(w.calls), i, w.told)
		}
	}
	if len(w.flow.resting) != 0 {
		t.Errorf("%d streams may rest", len(w.flow.resting))
	}
	c.close()
	if got := w.flow.Counts(); got.Calls != 3 || got.Lost()+got.Unanswered != 0 {
		t.Errorf("%+v", got)
	}
}

// An answer whose end was lost, on an HTTP/2 connection that then is silent.
func TestSilenceEndsAStreamOfHTTP2(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(1, false)
	cl, sv := newTalker(), newTalker()
	c.whole(parse.Requests, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+cl.settings()+cl.headers(1, ":method", "GET", ":path", "/a", ":scheme", "https", ":authority", "a"))
	head := []byte(sv.headers(1, ":status", "200", "x-of", "/a"))
	head[4] &^= 1 // END_STREAM comes with data
	c.whole(parse.Responses, string(head))
	c.say(parse.Responses, strings.Repeat("d", 900), 0)
	for range 13 {
		w.clock += rest
		w.flow.Tick(w.clock)
	}
	if len(w.calls) != 1 || len(w.flow.resting) != 0 {
		t.Errorf("%d calls, %d streams may rest", len(w.calls), len(w.flow.resting))
	}
}
