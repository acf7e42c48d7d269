package main

import (
	"net/netip"
	"time"

	"github.com/spile/spile/agent/call"
	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/flow"
	"github.com/spile/spile/agent/join"
	"github.com/spile/spile/agent/parse"
	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	joinWindow = 2 * time.Second // how long one end of a call waits for the other
	maxEnds    = 1 << 17         // ends of connections that are remembered; more than flow follows
)

// pipeline is the straight line from chunks to calls. It belongs to one goroutine.
type pipeline struct {
	pipelineConfig
	flow     *flow.Flow
	describe *call.Describer
	join     *join.Joiner
	ends     map[end]owned // which ends of connections are watched: does a call have its other end here?
	evicted  uint64        // ends forgotten to stay within maxEnds
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
}

// end is one end of a TCP connection. Loopback addresses mean something only inside a network namespace.
type end struct {
	local, remote netip.AddrPort
	netns         uint32
}

type owned struct {
	stream chunk.StreamID
	owner  chunk.Owner
}

func endOf(local, remote netip.AddrPort, netns uint32) end {
	if !local.Addr().IsLoopback() {
		netns = 0
	}
	return end{local, remote, netns}
}

func newPipeline(c pipelineConfig) *pipeline {
	p := &pipeline{pipelineConfig: c, ends: map[end]owned{}}
	p.describe = call.New(call.Config{Key: c.key.key, KeyEpoch: c.key.epoch, Node: c.node})
	p.join = join.New(join.Config{Window: joinWindow, Emit: c.emit})
	p.flow = flow.New(flow.Config{Limits: parse.DefaultLimits(), Emit: p.exchange, Mute: c.mute})
	return p
}

// chunk takes the next piece of any stream.
func (p *pipeline) chunk(c *chunk.Chunk) {
	p.flow.Feed(c)
	if c.Conn == 0 {
		return
	}
	e := endOf(c.Local, c.Remote, c.Owner.NetNS)
	if c.Kind == chunk.Close {
		if p.ends[e].stream == c.Stream {
			delete(p.ends, e)
		}
	} else if p.ends[e].stream != c.Stream {
		p.remember(e, owned{c.Stream, c.Owner})
	}
}

func (p *pipeline) remember(e end, o owned) {
	if len(p.ends) >= maxEnds {
		for old := range p.ends { // any: the table is larger than what flow follows, so this one is stale
			delete(p.ends, old)
			p.evicted++
			break
		}
	}
	p.ends[e] = o
}

// tick lets time pass: what has waited long enough goes on.
func (p *pipeline) tick(now time.Duration) {
	p.flow.Tick(now)
	p.join.Tick(now)
}

// finish hands on what is still held.
func (p *pipeline) finish() {
	p.flow.Flush()
	p.join.Flush()
}

// exchange makes a Call of a request and its response, and looks for its other end.
func (p *pipeline) exchange(s *flow.Stream, e *parse.Exchange) {
	here, there := &v1.Peer{}, &v1.Peer{}
	p.owner(s.Owner, e.Request.Start, here)
	other, watched := p.ends[endOf(s.Remote, s.Local, s.Owner.NetNS)]
	watched = watched && !s.Unbound
	if watched {
		p.owner(other.owner, e.Request.Start, there)
	}
	if !s.Unbound {
		here.Address, here.Port = s.Local.Addr().String(), uint32(s.Local.Port())
		there.Address, there.Port = s.Remote.Addr().String(), uint32(s.Remote.Port())
	}
	ctx := call.Context{
		BootToUnix:  p.wall,
		Boot:        p.boot,
		NetNS:       s.Owner.NetNS,
		Conn:        uint64(s.Conn),
		Stream:      uint64(s.ID),
		Birth:       s.ConnBirth,
		Source:      here,
		Destination: there,
		Client:      s.Client,
		TLS:         s.Layer == chunk.LayerTLS,
		PeerUnknown: s.Unbound,
	}
	source, destination := s.Local, s.Remote
	if !s.Client {
		ctx.Source, ctx.Destination = there, here
		source, destination = destination, source
	}
	if c := p.describe.Describe(ctx, e); c != nil {
		p.join.Add(join.Sighting{
			Call: c, Client: s.Client, Source: source, Destination: destination, NetNS: s.Owner.NetNS,
			Start: e.Request.Start, End: e.Response.End, StreamOrdinal: e.Ordinal, PeerWatched: watched,
		})
	}
}
