package flow

import (
	"testing"

	"github.com/spile/spile/agent/parse"
)

// sum is what the counts say became of the requests.
func sum(c Counts) uint64 { return c.Calls + c.Lost() + c.Unanswered }

func TestEveryRequestIsAccountedFor(t *testing.T) {
	seen, lost := uint64(0), uint64(0)
	for seed := range uint64(1500) {
		w := newWorld(t, seed, []float64{0, 0.02, 0.1, 0.3, 0.7, 1}[seed%6])
		for id := range 3 {
			c := w.dial(id+1, id%2 == 1)
			n := 1 + w.rng.IntN(12)
			for i := range n {
				c.exchange(i < n-1 || w.rng.IntN(4) > 0)
			}
			c.close()
		}
		w.flow.Tick(w.clock + straggle)
		got := w.flow.Counts()
		if sum(got) != uint64(w.sent) {
			t.Fatalf("seed %d: sent %d, accounted for %d: %+v", seed, w.sent, sum(got), got)
		}
		if w.lose == 0 && (got.Lost() > 0) {
			t.Fatalf("seed %d: lost %d of nothing", seed, got.Lost())
		}
		if len(w.flow.streams) > 0 || w.flow.buffered != 0 {
			t.Fatalf("seed %d: %d streams left, %d bytes", seed, len(w.flow.streams), w.flow.buffered)
		}
		seen, lost = seen+got.Calls, lost+got.Lost()
	}
	if seen == 0 || lost == 0 {
		t.Errorf("the test shows nothing: %d seen, %d lost", seen, lost)
	}
	t.Logf("%d calls, %d lost", seen, lost)
}

func TestSidesAreToldByContent(t *testing.T) {
	for _, client := range []bool{false, true} {
		var got *Stream
		f := New(Config{Emit: func(s *Stream, _ *parse.Exchange) { got = s }})
		w := newWorld(t, 1, 0)
		w.flow = f
		c := w.dial(7, client)
		c.exchange(true)
		if got == nil || got.Client != client || got.ID != 7 || got.Protocol != "http/1" || !got.Fresh {
			t.Errorf("client %v: %+v", client, got)
		}
	}
}
