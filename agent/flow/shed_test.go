package flow

import (
	"fmt"
	"testing"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/parse"
)

// Responses come and go as the policy changes in the middle of connections. Without losses every call is told; with them
// the account stays exact, and what is read again after a while is given to the request that it answers.
func TestShedResponsesAreCallsAllTheSame(t *testing.T) {
	var total Told
	var shed uint64
	for seed := range uint64(1200) {
		rate := []float64{0, 0, 0.1, 0.4}[seed%4]
		w := newWorld(t, seed, rate)
		emit, blind := w.flow.cfg.Emit, uint64(0)
		w.flow.cfg.Emit = func(s *Stream, x *parse.Exchange) {
			emit(s, x)
			if rate == 0 && (s.Gapped || x.Gap) {
				t.Fatalf("seed %d: %s counts as missed", seed, x.Request.Target)
			}
			if x.Response.Shed {
				blind++
				if x.Response.Status != 0 || x.Response.BodyBytes == 0 || x.Response.End < x.Request.Start || len(x.Response.Body) > 0 {
					t.Fatalf("seed %d: %+v", seed, x.Response)
				}
			}
		}
		c := w.dial(1, seed%2 == 0)
		const requests = 30
		for range requests {
			c.shed = w.rng.IntN(2) == 0
			if rate > 0 && w.rng.IntN(2) == 0 {
				c.shed = false // else nothing is told apart from what is lost
			}
			c.exchange(true)
		}
		c.close()
		w.flow.Tick(w.clock + straggle)
		got := w.told[1]
		if got.sum() != requests || rate == 0 && got.Calls != requests {
			t.Fatalf("seed %d: sent %d, %+v, %+v", seed, requests, got, w.flow.Counts())
		}
		total, shed = total.plus(got), shed+blind
	}
	if shed == 0 || total.Lost == 0 {
		t.Error("the test shows nothing")
	}
	t.Logf("%+v, %d of the calls without their response", total, shed)
}

// The policy changes between two pieces of one response.
func TestShedBeginsAndEndsInsideAResponse(t *testing.T) {
	w := newWorld(t, 1, 0)
	var got []string
	w.flow.cfg.Emit = func(s *Stream, x *parse.Exchange) {
		got = append(got, fmt.Sprintf("%s %d %d %v", x.Request.Target, x.Response.Status, x.Response.BodyBytes, x.Response.Shed))
	}
	c := w.dial(1, false)
	ask := func(target string) { c.whole(parse.Requests, "GET "+target+" HTTP/1.1\r\nHost: a\r\n\r\n") }
	ask("/begins-in-body")
	c.whole(parse.Responses, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234")
	c.shed = true
	c.whole(parse.Responses, "56789")
	ask("/ends-in-body")
	c.whole(parse.Responses, "HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\n01234")
	c.shed = false
	c.whole(parse.Responses, "56789")
	ask("/begins-in-head")
	c.whole(parse.Responses, "HTTP/1.1 202 Accepted\r\nContent-")
	c.shed = true
	c.whole(parse.Responses, "Length: 10\r\n\r\n0123456789")
	ask("/ends-in-head")
	c.whole(parse.Responses, "HTTP/1.1 203 OK\r\nContent-")
	c.shed = false
	c.whole(parse.Responses, "Length: 10\r\n\r\n0123456789")
	ask("/after")
	c.whole(parse.Responses, "HTTP/1.1 204 No Content\r\n\r\n")
	c.close()
	want := []string{"/begins-in-body 200 10 false", "/ends-in-body 0 54 true", "/begins-in-head 0 24 true", "/ends-in-head 0 49 true", "/after 204 0 false"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if n := w.flow.Counts(); n.Calls != 5 || n.Lost()+n.Unanswered != 0 || n.Shed != 4 {
		t.Errorf("%+v", n)
	}
}

// The last call on a connection that is kept alive does not wait for the next one.
func TestSilenceEndsAShedResponse(t *testing.T) {
	for _, protocol := range []string{"http/1", "http/2"} {
		w := newWorld(t, 1, 0)
		c := w.dial(1, true)
		c.shed = true
		if protocol == "http/1" {
			c.whole(parse.Requests, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
			c.whole(parse.Responses, "HTTP/1.1 200 OK\r\nX-Of: /a\r\nContent-Length: 3\r\n\r\nabc")
		} else {
			cl, sv := newTalker(), newTalker()
			c.whole(parse.Requests, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+cl.settings())
			c.whole(parse.Responses, sv.settings())
			c.whole(parse.Requests, cl.headers(1, ":method", "GET", ":path", "/a", ":scheme", "https", ":authority", "a"))
			w.clock += 3 * rest
			w.flow.Tick(w.clock)
			if len(w.calls) > 0 {
				t.Fatal("a request is answered before anything came")
			}
			c.whole(parse.Responses, sv.headers(1, ":status", "200"))
		}
		for range 2 {
			w.clock += rest
			w.flow.Tick(w.clock)
		}
		if len(w.calls) != 1 {
			t.Errorf("%s: %d calls", protocol, len(w.calls))
		}
	}
}

// HTTP/2, one request at a time and many, with the policy changing: nothing is lost, and statuses are right or unknown.
func TestShedHTTP2(t *testing.T) {
	for seed := range uint64(500) {
		rate := []float64{0, 0, 0.1}[seed%3]
		w := newWorld(t, seed, rate)
		var statuses [2]int
		w.flow.cfg.Emit = func(s *Stream, x *parse.Exchange) {
			statuses[0]++
			if x.Response.Shed {
				statuses[1]++
			} else if x.Response.Status != 200 && x.Response.Status != 226 {
				t.Fatalf("seed %d: status %d", seed, x.Response.Status)
			}
		}
		c := w.dial(1, seed%2 == 0)
		cl, sv := newTalker(), newTalker()
		c.whole(parse.Requests, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+cl.settings())
		c.whole(parse.Responses, sv.settings())
		const requests = 40
		width := 1 + w.rng.IntN(6)
		var open []uint32
		answer := func() {
			i := w.rng.IntN(len(open))
			status := "200"
			if w.rng.IntN(2) == 0 {
				status = "226" // not in the static table
			}
			c.whole(parse.Responses, sv.headers(open[i], ":status", status, "x-of", "/x"))
			open = append(open[:i], open[i+1:]...)
		}
		for id := uint32(1); id < 2*requests; id += 2 {
			c.shed = w.rng.IntN(3) > 0
			c.frames(parse.Requests, cl.headers(id, ":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/x"), 1)
			if open = append(open, id); len(open) >= width {
				answer()
			}
		}
		for len(open) > 0 {
			answer()
		}
		c.close()
		w.flow.Tick(w.clock + straggle)
		got := w.told[1]
		if got.sum() != requests || rate == 0 && got.Calls != requests {
			t.Fatalf("seed %d: %+v, %+v", seed, got, w.flow.Counts())
		}
		if rate == 0 && statuses[1] == 0 || seed == 0 && statuses[1] == statuses[0] {
			t.Fatalf("seed %d: %v", seed, statuses)
		}
	}
}

// A connection that is not one of those that are kept ends for the agent; the call that was open is lost for that reason.
func TestACloseThatLeavesOutTheRest(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(1, false)
	c.exchange(true)
	c.whole(parse.Requests, "GET /open HTTP/1.1\r\nHost: a\r\n\r\n")
	end := c.chunk(chunk.Close, chunk.Egress)
	end.Flags |= chunk.Shed
	end.Offset, end.PeerOff = c.offset[chunk.Egress], c.offset[chunk.Ingress]
	end.Heads, end.PeerHeads = c.heads[chunk.Egress], c.heads[chunk.Ingress]
	w.flow.Feed(&end)
	if got := w.flow.Counts(); got.Calls != 1 || got.Lost() != 1 || got.LostShed != 1 || got.Unanswered != 0 {
		t.Errorf("%+v", got)
	}
}

// Responses that are left out on a stream whose requests nobody saw are no calls, and none that are lost.
func TestShedResponsesProveNoRequests(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(1, false)
	c.fresh, c.shed = false, true
	c.whole(parse.Responses, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	c.close()
	if got := w.flow.Counts(); got.Calls+got.Lost()+got.Unanswered != 0 {
		t.Errorf("%+v", got)
	}
}

// Frames of a WebSocket are no broken requests.
func TestAnUpgradeWhoseAnswerIsLeftOut(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(1, false)
	c.shed = true
	c.whole(parse.Requests, "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	c.whole(parse.Responses, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
	c.whole(parse.Requests, "\x81\x85\x00\x00\x00\x00hello")
	got := w.flow.Counts()
	if got.Calls != 1 || got.Switched != 1 || got.Malformed+got.Lost() != 0 || len(w.muted) != 1 {
		t.Errorf("%+v", got)
	}
	// The same request, refused: the connection goes on.
	c = w.dial(2, false)
	c.shed = true
	c.whole(parse.Requests, "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n")
	c.whole(parse.Responses, "HTTP/1.1 400 Bad Request\r\n\r\n")
	c.exchange(true)
	c.close()
	if got := w.told[2]; got != (Told{Calls: 2}) {
		t.Errorf("%+v", got)
	}
}

// What a client sends next tells leave to go on from the answer.
func TestLeaveThatIsLeftOut(t *testing.T) {
	const ask = "PUT /%d HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
	w := newWorld(t, 1, 0)
	var got []string
	w.flow.cfg.Emit = func(s *Stream, x *parse.Exchange) {
		got = append(got, fmt.Sprintf("%s %d %v", x.Request.Target, x.Request.BodyBytes, x.Response.End-x.Request.Start))
	}
	c := w.dial(1, false)
	c.shed = true
	c.whole(parse.Requests, fmt.Sprintf(ask, 1))
	c.whole(parse.Responses, "HTTP/1.1 100 Continue\r\n\r\n")
	c.whole(parse.Requests, "body")
	c.whole(parse.Responses, "HTTP/1.1 204 No Content\r\n\r\n")
	c.whole(parse.Requests, fmt.Sprintf(ask, 2))
	c.whole(parse.Responses, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
	c.whole(parse.Requests, fmt.Sprintf(ask, 3))
	c.whole(parse.Responses, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n")
	c.whole(parse.Responses, "no")
	c.exchange(true)
	c.close()
	want := "[/1 4 3ms /2 0 1ms /3 0 2ms"
	if s := fmt.Sprint(got); len(got) != 4 || s[:len(want)] != want {
		t.Errorf("got %s, want %s...", s, want)
	}
}

// An interim response before the final one looks like two. The second belongs to no later request.
func TestEarlyHintsThatAreLeftOut(t *testing.T) {
	w := newWorld(t, 1, 0)
	var spans []time.Duration
	w.flow.cfg.Emit = func(s *Stream, x *parse.Exchange) { spans = append(spans, x.Response.End-x.Request.Start) }
	c := w.dial(1, false)
	c.shed = true
	for range 4 {
		c.whole(parse.Requests, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.whole(parse.Responses, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
		c.whole(parse.Responses, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}
	c.close()
	if got := w.told[1]; got != (Told{Calls: 4}) {
		t.Errorf("%+v", got)
	}
	for _, d := range spans {
		if d != time.Millisecond {
			t.Errorf("spans %v", spans)
			break
		}
	}
}

// A pipeline whose answers come in buffers of their own.
func TestAShedPipeline(t *testing.T) {
	w := newWorld(t, 1, 0)
	c := w.dial(1, false)
	c.shed = true
	const one = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	for range 3 {
		c.whole(parse.Requests, one+one)
		c.whole(parse.Responses, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		c.whole(parse.Responses, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}
	c.whole(parse.Requests, one+one) // the kernel counts the two answers as one
	c.whole(parse.Responses, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	c.close()
	if got := w.flow.Counts(); got.Calls != 7 || got.Lost() != 1 || got.LostShed != 1 || got.Unanswered != 0 {
		t.Errorf("%+v", got)
	}
}
