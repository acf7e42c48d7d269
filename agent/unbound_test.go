package main

import (
	"testing"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/join"
)

// Calls of a flood of streams without sockets go on in their order, the oldest first, and what waits stays bounded.
func TestUnboundIsBounded(t *testing.T) {
	n := newUnbound()
	var next time.Duration
	settle := func(u unsettled) {
		if u.sighting.End != next {
			t.Fatalf("the call of %d went on, want that of %d", u.sighting.End, next)
		}
		next++
	}
	const calls = 5*maxUnbound + 7
	for i := range calls {
		n.add(chunk.StreamID(1+i%9), unsettled{sighting: join.Sighting{End: time.Duration(i)}}, settle)
		if cap(n.queue) > 4*maxUnbound {
			t.Fatalf("room for %d after %d", cap(n.queue), i)
		}
	}
	if next != calls-maxUnbound || len(n.queue)-n.head != maxUnbound || len(n.count) != 9 {
		t.Errorf("%d went on, %d wait of %d streams", next, len(n.queue)-n.head, len(n.count))
	}
	if n.expire(bindTime+calls-11, settle); next != calls-10 || len(n.queue)-n.head != 10 {
		t.Errorf("%d went on in time, %d wait", next, len(n.queue)-n.head)
	}
	if n.expire(1<<63-1, settle); next != calls || len(n.queue)+n.head+len(n.count) != 0 {
		t.Errorf("%d went on, and %+v", next, n)
	}
}

func BenchmarkUnboundFull(b *testing.B) {
	n := newUnbound()
	for i := range maxUnbound {
		n.add(1, unsettled{sighting: join.Sighting{End: time.Duration(i)}}, func(unsettled) {})
	}
	at := time.Duration(maxUnbound)
	for b.Loop() {
		n.add(1, unsettled{sighting: join.Sighting{End: at}}, func(unsettled) {})
		at++
	}
}
