package main

import (
	"net/netip"
	"slices"
	"time"

	"github.com/spile/spile/agent/call"
	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/coverage"
	"github.com/spile/spile/agent/flow"
	"github.com/spile/spile/agent/join"
	"github.com/spile/spile/agent/parse"
	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	joinWindow  = 2 * time.Second // how long one end of a call waits for the other
	maxEnds     = 1 << 17         // ends of connections that are remembered; more than flow follows
	maxBuffered = 64 << 20        // bytes that parsers hold; beyond it the oldest streams are evicted, counted

	// A write inside a TLS library is seen when it returns, so a server's answer can be seen before the client's first
	// request. Until this long after the first call on a connection nobody says that its other end is not watched.
	settleTime   = 100 * time.Millisecond
	maxUnsettled = 1 << 14
	maxServed    = 1 << 14 // addresses of watched servers
	servedFor    = time.Minute
)

// pipeline is the straight line from chunks to calls. It belongs to one goroutine.
type pipeline struct {
	pipelineConfig
	flow      *flow.Flow
	describe  *call.Describer
	join      *join.Joiner
	ends      map[end]*owned        // which ends of connections are watched: does a call have its other end here?
	evicted   uint64                // ends forgotten to stay within maxEnds
	served    map[end]time.Duration // local ends, without remote, of watched servers → when they last answered, since boot
	unsettled []unsettled           // sightings in order of time, until it is known whether the other end is watched
	names     map[netip.Addr]string // addresses as text
	unbound   unbound               // sightings on streams whose socket is not known yet
}

// unsettled is a sighting on a connection whose other end has shown nothing yet.
type unsettled struct {
	sighting    join.Sighting
	here, there end
	birth       time.Duration // of the connection, since boot
	due         time.Duration
}

// pipelineConfig is what a pipeline needs from outside; a recording and a live tap give different ones.
type pipelineConfig struct {
	key   installKey
	node  string
	boot  string                                            // names this boot of the node, in call ids
	wall  time.Duration                                     // Unix time minus time since boot
	owner func(o chunk.Owner, at time.Duration, p *v1.Peer) // fills in what is known of a process
	mute  func(chunk.StreamID)
	emit  func(*v1.Call)
	reuse bool // emit keeps no call: the next one is made of its memory
	// coverage is told what became of the calls of each process, and says how much of it was seen. A recording has none.
	coverage *coverage.Table
}

// end is one end of a TCP connection. Loopback addresses mean something only inside a network namespace.
type end struct {
	local, remote netip.AddrPort
	netns         uint32
}

type owned struct {
	stream  chunk.StreamID
	owner   chunk.Owner
	last    time.Duration // since boot: when it last moved bytes
	settled bool          // the other end had its time to show itself
}

func endOf(local, remote netip.AddrPort, netns uint32) end {
	if !local.Addr().IsLoopback() {
		netns = 0
	}
	return end{local, remote, netns}
}

func newPipeline(c pipelineConfig) *pipeline {
	p := &pipeline{pipelineConfig: c, ends: map[end]*owned{}, served: map[end]time.Duration{}, names: map[netip.Addr]string{}, unbound: newUnbound()}
	p.describe = call.New(call.Config{Key: c.key.key, KeyEpoch: c.key.epoch, Node: c.node})
	emit := c.emit
	var spare func(*v1.Call)
	if c.reuse {
		spare = p.describe.Reuse
		emit = func(call *v1.Call) {
			c.emit(call)
			p.describe.Reuse(call)
		}
	}
	p.join = join.New(join.Config{Window: joinWindow, Emit: emit, Spare: spare})
	p.flow = flow.New(flow.Config{Limits: parse.DefaultLimits(), MaxBuffered: maxBuffered, Emit: p.exchange, Settled: p.settled, Mute: c.mute})
	return p
}

// chunk takes the next piece of any stream.
func (p *pipeline) chunk(c *chunk.Chunk) {
	p.found(c)
	p.flow.Feed(c)
	if c.Conn == 0 {
		return
	}
	e := endOf(c.Local, c.Remote, c.Owner.NetNS)
	if c.Kind == chunk.Close {
		if o := p.ends[e]; o != nil && o.stream == c.Stream {
			delete(p.ends, e)
		}
		return
	}
	o := p.ends[e]
	if o == nil || o.stream != c.Stream {
		p.makeRoom()
		o = &owned{stream: c.Stream, owner: c.Owner}
		p.ends[e] = o
	}
	o.last = c.Time
}

// makeRoom keeps the table within its bound.
func (p *pipeline) makeRoom() {
	if len(p.ends) < maxEnds {
		return
	}
	for old := range p.ends { // any: the table is larger than what flow follows, so most of it is stale
		delete(p.ends, old)
		p.evicted++
		return
	}
}

// tick lets time pass: what has waited long enough goes on.
func (p *pipeline) tick(now time.Duration) {
	p.flow.Tick(now)
	n := 0
	for n < len(p.unsettled) && (p.unsettled[n].due <= now || len(p.unsettled)-n > maxUnsettled) {
		p.settle(p.unsettled[n])
		n++
	}
	p.unsettled = slices.Delete(p.unsettled, 0, n)
	p.unbound.expire(now, p.settle)
	p.join.Tick(now)
}

// finish hands on what is still held.
func (p *pipeline) finish() {
	p.flow.Flush()
	p.unbound.expire(1<<63-1, p.settle)
	for _, u := range p.unsettled {
		p.settle(u)
	}
	p.unsettled = nil
	p.join.Flush()
}

// fill writes what is known of the process at one end.
func (p *pipeline) fill(o chunk.Owner, at time.Duration, peer *v1.Peer) {
	p.owner(o, at, peer)
	if p.coverage == nil {
		return
	}
	if share, known := p.coverage.Share(coverage.Process{TGID: o.TGID, Start: o.Start}); known {
		peer.Coverage = &share
	}
}

// settled takes what became of calls of a stream.
func (p *pipeline) settled(s *flow.Stream, told flow.Told) {
	if p.coverage != nil && s.Owner.TGID != 0 {
		p.coverage.Told(coverage.Process{TGID: s.Owner.TGID, Start: s.Owner.Start}, s.Owner.Cgroup, told.Calls, told.Lost)
	}
}

// exchange makes a Call of a request and its response, and looks for its other end.
func (p *pipeline) exchange(s *flow.Stream, e *parse.Exchange) {
	c := p.describe.Describe(call.Context{
		BootToUnix:  p.wall,
		Boot:        p.boot,
		NetNS:       s.Owner.NetNS,
		Conn:        uint64(s.Conn),
		Stream:      uint64(s.ID),
		Birth:       s.ConnBirth,
		Client:      s.Client,
		TLS:         s.Layer == chunk.LayerTLS,
		PeerUnknown: s.Unbound,
	}, e)
	if c == nil {
		return
	}
	here, there := c.Source, c.Destination
	source, destination := s.Local, s.Remote
	if !s.Client {
		here, there = there, here
		source, destination = destination, source
		p.serves(s, e.Response.End)
	}
	p.fill(s.Owner, e.Request.Start, here)
	if !s.Unbound {
		p.address(here, s.Local)
		p.address(there, s.Remote)
	}
	u := unsettled{
		sighting: join.Sighting{
			Call: c, Client: s.Client, Source: source, Destination: destination, NetNS: s.Owner.NetNS,
			Start: e.Request.Start, End: e.Response.End, StreamOrdinal: e.Ordinal, Numbered: s.Fresh && !s.Gapped,
		},
		birth: s.ConnBirth,
		here:  endOf(s.Local, s.Remote, s.Owner.NetNS), there: endOf(s.Remote, s.Local, s.Owner.NetNS),
		due: e.Response.End + settleTime,
	}
	if s.Unbound {
		p.unbound.add(s.ID, u, p.settle)
		return
	}
	p.await(u)
}

// await settles a sighting once it is known whether its other end is watched.
func (p *pipeline) await(u unsettled) {
	mine := p.ends[u.here]
	if mine != nil && mine.settled || p.other(u) != nil {
		p.settle(u)
		return
	}
	p.unsettled = append(p.unsettled, u)
}

// other is the other end, if its process is watched. An end that fell silent before this connection began belonged to an
// older one with the same addresses, whose close was lost.
func (p *pipeline) other(u unsettled) *owned {
	if o := p.ends[u.there]; o != nil && o.last+settleTime >= u.birth {
		return o
	}
	return nil
}

// serves remembers where a watched server answered, and when.
func (p *pipeline) serves(s *flow.Stream, at time.Duration) {
	if s.Unbound {
		return
	}
	here := endOf(s.Local, netip.AddrPort{}, s.Owner.NetNS)
	if _, known := p.served[here]; known || len(p.served) < maxServed {
		p.served[here] = at
		return
	}
	for old := range p.served { // any: a busy server will be back with its next answer
		delete(p.served, old)
		p.served[here] = at
		return
	}
}

// watches reports whether a watched server answered at the other end's address a short while ago. Later another program
// may have taken its place.
func (p *pipeline) watches(u unsettled) bool {
	at, ok := p.served[endOf(u.there.local, netip.AddrPort{}, u.there.netns)]
	return ok && u.sighting.End-at < servedFor
}

// settle hands a sighting to join, now that it is known whether its other end will come.
func (p *pipeline) settle(u unsettled) {
	if other := p.other(u); other != nil {
		u.sighting.PeerWatched = true
		peer := u.sighting.Call.GetDestination()
		if !u.sighting.Client {
			peer = u.sighting.Call.GetSource()
		}
		p.fill(other.owner, u.sighting.Start, peer)
	} else {
		if mine := p.ends[u.here]; mine != nil {
			mine.settled = true
		}
		if u.sighting.Client && p.watches(u) {
			// Everything of the server's end of this connection was lost so far. The loss is counted there; this is no
			// call of a server that nobody watches.
			u.sighting.Call.Coverage = append(u.sighting.Call.Coverage, "server_watched")
		}
	}
	p.join.Add(u.sighting)
}
