package main

import (
	"net/netip"
	"slices"
	"time"

	"github.com/spile/spile/agent/chunk"
	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	// bindTime is how long a call on a stream without a socket waits for one: probes that find it may just be on their
	// way, and a library that leaves sending to its program shows the socket only afterwards.
	bindTime   = time.Second
	maxUnbound = 1 << 12
)

// unbound keeps sightings on streams whose socket is not known yet. A stream belongs to one connection for good, so what is
// found later holds for all its calls.
type unbound struct {
	queue []waitingCall // in order of time; what lies before head has gone on
	head  int
	count map[chunk.StreamID]int // how many of them a stream has
}

type waitingCall struct {
	unsettled
	stream chunk.StreamID // 0 = its socket was found
	until  time.Duration
}

func newUnbound() unbound { return unbound{count: map[chunk.StreamID]int{}} }

// add keeps u; where there are too many, the oldest goes on without a peer.
func (n *unbound) add(s chunk.StreamID, u unsettled, settle func(unsettled)) {
	if len(n.queue)-n.head >= maxUnbound {
		n.expire(n.queue[n.head].until, settle)
	}
	n.queue = append(n.queue, waitingCall{u, s, u.sighting.End + bindTime})
	n.count[s]++
}

// expire lets go of what waited long enough: its peer stays unknown.
func (n *unbound) expire(now time.Duration, settle func(unsettled)) {
	for ; n.head < len(n.queue) && (n.queue[n.head].until <= now || n.queue[n.head].stream == 0); n.head++ {
		w := n.queue[n.head]
		n.queue[n.head] = waitingCall{} // nothing is to keep its call in memory
		if w.stream == 0 {
			continue
		}
		if n.count[w.stream]--; n.count[w.stream] == 0 {
			delete(n.count, w.stream)
		}
		settle(w.unsettled)
	}
	// Moving what is left only when it is no more than what is gone makes an add cost the same, however many wait.
	if 2*n.head >= len(n.queue) {
		n.queue, n.head = slices.Delete(n.queue, 0, n.head), 0
	}
}

// found fills in the peers of calls that waited for the socket of c's stream; they go on like any other call.
func (p *pipeline) found(c *chunk.Chunk) {
	n := &p.unbound
	if len(n.count) == 0 || n.count[c.Stream] == 0 || c.Conn == 0 || c.Flags.Has(chunk.Unbound) || !c.Local.IsValid() {
		return
	}
	delete(n.count, c.Stream)
	for i := n.head; i < len(n.queue); i++ {
		w := &n.queue[i]
		if w.stream != c.Stream {
			continue
		}
		w.stream = 0
		p.bind(&w.unsettled, c)
		p.await(w.unsettled)
	}
}

// bind writes the two ends of a connection into a sighting.
func (p *pipeline) bind(u *unsettled, c *chunk.Chunk) {
	s := &u.sighting
	s.Source, s.Destination, s.NetNS = c.Local, c.Remote, c.Owner.NetNS
	if !s.Client {
		s.Source, s.Destination = s.Destination, s.Source
	}
	p.address(s.Call.GetSource(), s.Source)
	p.address(s.Call.GetDestination(), s.Destination)
	s.Call.Coverage = slices.DeleteFunc(s.Call.Coverage, func(word string) bool { return word == "peer_unknown" })
	u.here, u.there = endOf(c.Local, c.Remote, c.Owner.NetNS), endOf(c.Remote, c.Local, c.Owner.NetNS)
	u.birth, u.due = c.ConnBirth, c.Time+settleTime
}

// maxAddresses is how many addresses are remembered as text.
const maxAddresses = 1 << 12

// address writes an address into a peer.
func (p *pipeline) address(peer *v1.Peer, a netip.AddrPort) {
	if peer == nil {
		return
	}
	text, ok := p.names[a.Addr()]
	if !ok {
		if len(p.names) >= maxAddresses {
			clear(p.names)
		}
		text = a.Addr().String()
		p.names[a.Addr()] = text
	}
	peer.Address, peer.Port = text, uint32(a.Port())
}
