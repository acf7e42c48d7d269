package main

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/spile/spile/agent/chunk"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// wire makes the chunks of one keep-alive connection as both of its ends see them.
type wire struct {
	client, server chunk.Chunk
	offsets        map[chunk.StreamID]*[2]uint64
	seqs           map[chunk.StreamID]*[2]uint32
	now            time.Duration
	feed           func(*chunk.Chunk)
}

func newWire(n int, feed func(*chunk.Chunk)) *wire {
	a := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(20000+n))
	b := netip.MustParseAddrPort("127.0.0.1:8443")
	w := &wire{feed: feed, offsets: map[chunk.StreamID]*[2]uint64{}, seqs: map[chunk.StreamID]*[2]uint32{}}
	for i, c := range []*chunk.Chunk{&w.client, &w.server} {
		id := chunk.StreamID(1 + 2*n + i)
		*c = chunk.Chunk{Kind: chunk.Data, Layer: chunk.LayerTLS, Flags: chunk.Fresh, Stream: id, Conn: chunk.ConnID(id), Local: a, Remote: b,
			Owner: chunk.Owner{TGID: uint32(100 + i), NetNS: 1, Comm: []string{"curl", "nginx"}[i]}}
		w.offsets[id], w.seqs[id] = &[2]uint64{}, &[2]uint32{}
	}
	w.server.Local, w.server.Remote = b, a
	return w
}

// pass moves bytes from one end to the other.
func (w *wire) pass(from, to *chunk.Chunk, data []byte) {
	for i, c := range []*chunk.Chunk{from, to} {
		p := *c
		p.Direction = []chunk.Direction{chunk.Egress, chunk.Ingress}[i]
		w.now += 20 * time.Microsecond
		p.Time, p.Data, p.Length = w.now, data, uint32(len(data))
		p.Offset, p.Seq = w.offsets[p.Stream][p.Direction], w.seqs[p.Stream][p.Direction]
		w.offsets[p.Stream][p.Direction] += uint64(len(data))
		w.seqs[p.Stream][p.Direction]++
		w.feed(&p)
	}
}

func (w *wire) call(request, response []byte) {
	w.pass(&w.client, &w.server, request)
	w.pass(&w.server, &w.client, response)
}

func request(path string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: shop.example:8443\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\nAuthorization: Bearer abcdefghijklmnop\r\n\r\n")
}

func answer(body string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n%s", len(body), body)
}

func testPipeline(emit func(*v1.Call)) *pipeline {
	return newPipeline(pipelineConfig{key: replayKey(), node: "n1", boot: "b", emit: emit,
		owner: func(o chunk.Owner, _ time.Duration, p *v1.Peer) { p.Process = o.Comm }, mute: func(chunk.StreamID) {}})
}

func TestTwoEndsAreOneCall(t *testing.T) {
	var calls []*v1.Call
	p := testPipeline(func(c *v1.Call) { calls = append(calls, c) })
	w := newWire(0, p.chunk)
	for i := range 3 {
		w.call(request(fmt.Sprintf("/users/%d", i)), answer(`{"id":1}`))
	}
	if len(calls) != 3 {
		t.Fatalf("%d calls before any time passed, want 3", len(calls))
	}
	for i, c := range calls {
		if c.GetObserved() != v1.Observed_OBSERVED_BOTH || c.GetPath() != fmt.Sprintf("/users/%d", i) ||
			c.GetSource().GetProcess() != "curl" || c.GetDestination().GetProcess() != "nginx" || c.GetDestination().GetPort() != 8443 {
			t.Errorf("call %d: %v", i, c)
		}
	}
}

// TestOneEndAloneIsSaidToBeAlone: with only the client watched, the call waits only until that is certain, and does not name a server process.
func TestOneEndAloneIsSaidToBeAlone(t *testing.T) {
	var calls []*v1.Call
	p := testPipeline(func(c *v1.Call) { calls = append(calls, c) })
	w := newWire(0, func(c *chunk.Chunk) {
		if c.Owner.Comm == "curl" {
			p.chunk(c)
		}
	})
	w.call(request("/users/1"), answer(`{}`))
	p.tick(w.now + settleTime)
	w.call(request("/users/2"), answer(`{}`)) // by now it is known that nobody else will tell
	if len(calls) != 2 || calls[0].GetObserved() != v1.Observed_OBSERVED_CLIENT || calls[0].GetDestination().GetProcess() != "" {
		t.Errorf("calls: %v", calls)
	}
}

// TestAnAnswerSeenBeforeItsQuestion: the client's write returns after the server has answered, so its piece comes last.
func TestAnAnswerSeenBeforeItsQuestion(t *testing.T) {
	var calls []*v1.Call
	var held []chunk.Chunk
	p := testPipeline(func(c *v1.Call) { calls = append(calls, c) })
	w := newWire(0, func(c *chunk.Chunk) {
		if c.Owner.Comm == "curl" {
			held = append(held, *c)
			return
		}
		p.chunk(c)
	})
	w.call(request("/users/1"), answer(`{}`))
	p.tick(w.now)
	for i := range held {
		p.chunk(&held[i])
	}
	p.tick(w.now + settleTime)
	if len(calls) != 1 || calls[0].GetObserved() != v1.Observed_OBSERVED_BOTH {
		t.Errorf("calls: %v", calls)
	}
}

// TestALostEndStillNamesItsProcess: the server's pieces of one call are lost, but the server is watched; so the call is
// the client's sighting of a covered process and will not be counted twice.
func TestALostEndStillNamesItsProcess(t *testing.T) {
	var calls []*v1.Call
	p := testPipeline(func(c *v1.Call) { calls = append(calls, c) })
	drop := false
	w := newWire(0, func(c *chunk.Chunk) {
		if !drop || c.Owner.Comm == "curl" {
			p.chunk(c)
		}
	})
	w.call(request("/users/1"), answer(`{}`))
	drop = true
	w.call(request("/users/2"), answer(`{}`))
	p.tick(w.now + time.Minute)
	p.finish()
	if len(calls) != 2 || calls[1].GetObserved() != v1.Observed_OBSERVED_CLIENT || calls[1].GetDestination().GetProcess() != "nginx" {
		t.Errorf("calls: %v", calls)
	}
}

// TestAWatchedServerIsNotCountedForItsClient: all of the server's end of a second connection was lost. The loss is counted
// at that end, so the client's sighting must say that it is no call of an unwatched server.
func TestAWatchedServerIsNotCountedForItsClient(t *testing.T) {
	var calls []*v1.Call
	p := testPipeline(func(c *v1.Call) { calls = append(calls, c) })
	w := newWire(0, p.chunk)
	w.call(request("/users/1"), answer(`{}`))
	other := newWire(1, func(c *chunk.Chunk) {
		if c.Owner.Comm == "curl" {
			p.chunk(c)
		}
	})
	other.call(request("/users/2"), answer(`{}`))
	p.tick(other.now + settleTime)
	if len(calls) != 2 || !slices.Contains(calls[1].GetCoverage(), "server_watched") || slices.Contains(calls[0].GetCoverage(), "server_watched") {
		t.Errorf("calls: %v", calls)
	}
	other.now += time.Hour // by now another program may serve there
	other.call(request("/users/3"), answer(`{}`))
	p.tick(other.now + settleTime)
	if len(calls) != 3 || slices.Contains(calls[2].GetCoverage(), "server_watched") {
		t.Errorf("an hour later: %v", calls[2:])
	}
}

// TestAnOlderConnectionIsNoPeer: the close of a connection was lost; a later one with the same addresses, whose server is
// not watched, must not be told as the old server's.
func TestAnOlderConnectionIsNoPeer(t *testing.T) {
	var calls []*v1.Call
	p := testPipeline(func(c *v1.Call) { calls = append(calls, c) })
	w := newWire(0, p.chunk)
	w.call(request("/users/1"), answer(`{}`))
	again := newWire(0, func(c *chunk.Chunk) {
		if c.Owner.Comm == "curl" {
			p.chunk(c)
		}
	})
	again.now = w.now + time.Hour
	again.client.Stream, again.client.ConnBirth = 99, again.now
	again.offsets[99], again.seqs[99] = &[2]uint64{}, &[2]uint32{}
	again.call(request("/users/2"), answer(`{}`))
	p.tick(again.now + settleTime)
	if len(calls) != 2 || calls[1].GetPath() != "/users/2" || calls[1].GetDestination().GetProcess() != "" {
		t.Errorf("calls: %v", calls)
	}
}

// BenchmarkPipeline is what the agent's own code costs a call that is seen at both ends.
func BenchmarkPipeline(b *testing.B) {
	n := 0
	p := newPipeline(pipelineConfig{key: replayKey(), node: "n1", boot: "b", reuse: true,
		emit:  func(*v1.Call) { n++ },
		owner: func(o chunk.Owner, _ time.Duration, p *v1.Peer) { p.Process = o.Comm }, mute: func(chunk.StreamID) {}})
	var wires []*wire
	for i := range 16 {
		wires = append(wires, newWire(i, p.chunk))
	}
	req, res := request("/users/4711/orders?page=2"), answer(`{"id": 7, "name": "anvil", "email": "a@b.example", "items": [1, 2, 3]}`)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		wires[i%16].call(req, res)
	}
	if n == 0 {
		b.Fatal("no calls")
	}
}
