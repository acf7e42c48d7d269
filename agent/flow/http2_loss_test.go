package flow

import (
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/parse"
)

// frames says buffers of HTTP/2. begun of the requests in them open streams, which is what the kernel counts.
func (w *wire) frames(side parse.Side, data string, begun uint32) {
	d := chunk.Direction(side)
	if w.client {
		d = 1 - d
	}
	w.heads[d] += begun
	captured := len(data)
	if w.lose > 0 && w.rng.IntN(12) == 0 {
		captured = max(min(len(data), 20), w.rng.IntN(len(data)+1))
	}
	w.say(side, data, captured)
}

func path(id uint32) string { return "/" + strconv.Itoa(int(id)) }

// multiplex is a connection with many requests open, several frames in a buffer and bodies over many buffers.
func (w *wire) multiplex(requests int) {
	cl, sv := newTalker(), newTalker()
	buffer, begun := "", uint32(0)
	if w.fresh {
		buffer = http2.ClientPreface + cl.settings()
	}
	flush := func() {
		if buffer != "" {
			w.frames(parse.Requests, buffer, begun)
		}
		buffer, begun = "", 0
	}
	var open []uint32
	for id := uint32(1); id < uint32(2*requests) || len(open) > 0; {
		if id < uint32(2*requests) && (len(open) == 0 || len(open) < 20 && w.rng.IntN(2) == 0) {
			buffer += cl.headers(id, ":method", "GET", ":scheme", "https", ":authority", "a", ":path", path(id), "x-n", strings.Repeat("n", w.rng.IntN(40)))
			begun++
			open = append(open, id)
			id += 2
			if w.rng.IntN(3) > 0 {
				flush()
			}
			continue
		}
		flush()
		i := w.rng.IntN(len(open))
		w.frames(parse.Responses, sv.headers(open[i], ":status", "200", "x-of", path(open[i]), "x-n", strings.Repeat("m", w.rng.IntN(40))), 0)
		open = append(open[:i], open[i+1:]...)
	}
	flush()
}

// Whatever is lost, the end of a connection included: each request is told, counted as lost, or without an answer.
func TestHTTP2SeenAndLostAreSent(t *testing.T) {
	var total Counts
	for seed := range uint64(3000) {
		rate := []float64{0, 0.02, 0.2, 0.7, 1}[seed%5]
		w := newWorld(t, seed, rate)
		c := w.dial(1, seed%2 == 0)
		const requests = 40
		c.multiplex(requests)
		tail := seed%3 > 0
		if tail { // the ring is full from here on
			w.lose = 1
			cl := newTalker()
			for id := uint32(2*requests + 1); id < 4*requests; id += 2 {
				c.frames(parse.Requests, cl.headers(id, ":method", "GET", ":path", "/x"), 1)
			}
			w.lose = rate
		}
		if seed%7 != 0 { // else: the agent ends before the stream
			c.close()
		} else if tail {
			continue // nothing came that could tell
		} else if w.lose > 0 {
			w.lose = 0
			c.whole(parse.Requests, "\x00\x00\x08\x06\x00\x00\x00\x00\x00pingping") // shows the count up to here
		}
		w.flow.Flush()
		sent := uint64(requests)
		if tail {
			sent = 2 * requests
		}
		got := w.flow.Counts()
		if got.Calls+got.Lost()+got.Unanswered != sent {
			t.Fatalf("seed %d: %d calls, %d lost, %d unanswered of %d: %+v", seed, got.Calls, got.Lost(), got.Unanswered, sent, got)
		}
		if rate == 0 && !tail && got.Calls != requests {
			t.Fatalf("seed %d: %+v", seed, got)
		}
		total.Calls += got.Calls
		total.LostServer += got.LostServer
		total.LostClient += got.LostClient
	}
	if total.Calls == 0 || total.LostServer == 0 || total.LostClient == 0 {
		t.Error("the test shows nothing")
	}
	t.Logf("%d calls, %d lost", total.Calls, total.Lost())
}
