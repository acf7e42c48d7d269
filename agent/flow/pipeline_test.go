package flow

import (
	"fmt"
	"testing"

	"github.com/spile/spile/agent/parse"
)

// batch pipelines n requests, in one buffer or in many, and answers them in one or in many.
func (w *wire) batch(n int) {
	var requests, responses []string
	for range n {
		name := fmt.Sprintf("/%d/%d", w.id, w.sent)
		w.sent++
		requests = append(requests, "GET "+name+" HTTP/1.1\r\nHost: a\r\n\r\n")
		responses = append(responses, "HTTP/1.1 200 OK\r\nX-Of: "+name+"\r\nContent-Length: 2\r\n\r\nok")
	}
	for side, list := range [][]string{requests, responses} {
		together := ""
		for i, s := range list {
			together += s
			if w.rng.IntN(2) == 0 || i == len(list)-1 {
				w.say(parse.Side(side), together, len(together))
				together = ""
			}
		}
	}
}

// Requests in one buffer, each answered in one of its own, as most servers do: the answers tell how many were lost.
func TestAnswersTellOfPipelines(t *testing.T) {
	var sent, known uint64
	for seed := range uint64(2000) {
		w := newWorld(t, seed, []float64{0.05, 0.2, 0.5}[seed%3])
		c := w.dial(1, seed%2 == 0)
		for range 6 {
			requests, first, n := "", w.sent, 2+w.rng.IntN(3)
			for i := range n {
				requests += fmt.Sprintf("GET /1/%d HTTP/1.1\r\nHost: a\r\n\r\n", first+i)
			}
			w.sent += n
			c.whole(parse.Requests, requests)
			for i := range n {
				c.whole(parse.Responses, fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Of: /1/%d\r\nContent-Length: 2\r\n\r\nok", first+i))
			}
		}
		c.close()
		w.flow.Tick(w.clock + straggle)
		got := sum(w.flow.Counts())
		if got > uint64(w.sent) {
			t.Fatalf("seed %d: sent %d, accounted for %d", seed, w.sent, got)
		}
		sent, known = sent+uint64(w.sent), known+got
	}
	if (sent-known)*1000 > sent { // where nothing at all was read, nothing tells that it was a pipeline
		t.Errorf("%d of %d requests are in no account", sent-known, sent)
	}
}

// The kernel counts one head per buffer, so losses on a connection that pipelines can't be counted exactly. What must
// hold: no loss, nothing lost; and no request is ever given the response of another (the world checks each).
func TestPipelinesAreNeverPairedWrongly(t *testing.T) {
	var emitted uint64
	for seed := range uint64(2000) {
		w := newWorld(t, seed, []float64{0, 0.05, 0.2, 0.5}[seed%4])
		c := w.dial(1, false)
		for range 6 {
			c.batch(2 + w.rng.IntN(3))
		}
		c.close()
		w.flow.Tick(w.clock + straggle)
		got := w.flow.Counts()
		if w.lose == 0 && got.Calls != uint64(w.sent) {
			t.Fatalf("seed %d: %d of %d", seed, got.Calls, w.sent)
		}
		if sum(got) > uint64(w.sent) {
			t.Fatalf("seed %d: sent %d, accounted for %d: %+v", seed, w.sent, sum(got), got)
		}
		if w.lose > 0 {
			emitted += got.Calls
		}
	}
	if emitted == 0 {
		t.Error("nothing was paired at all")
	}
}
