package join

import (
	"net/netip"
	"slices"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
)

func connectionOf(s Sighting) connection {
	c := connection{source: unmap(s.Source), destination: unmap(s.Destination)}
	if c.source.Addr().IsLoopback() || c.destination.Addr().IsLoopback() {
		c.netns = s.NetNS
	}
	return c
}

// unmap makes an IPv4 address of an IPv4-mapped one: a dual-stack socket at one end sees the latter.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func (c connection) known() bool {
	return c.source.Addr().IsValid() && c.destination.Addr().IsValid() && c.source.Port() != 0 && c.destination.Port() != 0
}

func (w *waiting) end(client bool) *[]*entry {
	if client {
		return &w.client
	}
	return &w.server
}

// match finds the one sighting at the other end that is the same call as e; nil where there is none, or more than one.
func (w *waiting) match(e *entry) *entry {
	var found *entry
	for _, o := range *w.end(!e.Client) {
		if !same(e, o) {
			continue
		}
		if found != nil {
			return nil
		}
		found = o
	}
	if found == nil {
		return nil
	}
	for _, rival := range *w.end(e.Client) {
		if same(rival, found) {
			return nil
		}
	}
	return found
}

// same reports whether two sightings of one connection can be one call.
func same(a, b *entry) bool {
	x, y := a.Call, b.Call
	if x.Method != y.Method || x.StatusCode != y.StatusCode && x.StatusCode != 0 && y.StatusCode != 0 || x.Protocol != y.Protocol || x.Path != y.Path {
		return false
	}
	if x.Protocol == "http/2" || a.Numbered && b.Numbered {
		return a.StreamOrdinal == b.StreamOrdinal
	}
	if x.GetRequest().GetBytes() != y.GetRequest().GetBytes() {
		return false
	}
	if a.Client {
		return overlaps(a, b)
	}
	return overlaps(b, a)
}

// overlaps reports whether the client's span covers more than half of the server's. The clocks are one, but a hook at
// the end of a system call tells the time a little late, so that full containment would be too much to ask.
func overlaps(client, server *entry) bool {
	from, to := max(client.Start, server.Start), min(client.End, server.End)
	if server.End == server.Start {
		return to >= from
	}
	return 2*(to-from) > max(server.End-server.Start, time.Duration(0))
}

// merge emits one call for two sightings. other has waited, e has not.
func (j *Joiner) merge(e, other *entry) {
	j.drop(other)
	client, server := e, other
	if !e.Client {
		client, server = other, e
	}
	// What is taken is given for, so that no part is in two calls.
	c, spare := server.Call, client.Call
	c.Observed = v1.Observed_OBSERVED_BOTH
	if spare.Source != nil {
		c.Source, spare.Source = spare.Source, c.Source
	}
	if c.Destination == nil {
		c.Destination, spare.Destination = spare.Destination, nil
	}
	if c.Tls == nil {
		c.Tls, spare.Tls = spare.Tls, nil
	}
	read := c.StatusCode == 0 && spare.StatusCode != 0
	if read {
		// The server's response was left out on purpose, the client's was not: its cgroup is another.
		c.StatusCode = spare.StatusCode
		c.Response, spare.Response = spare.Response, c.Response
		c.Duration, spare.Duration = spare.Duration, c.Duration
	}
	c.Coverage = slices.DeleteFunc(c.Coverage, func(s string) bool { return s == "peer_unknown" || read && s == "response_shed" })
	j.counts.Joined++
	j.config.Emit(c)
	if j.config.Spare != nil {
		j.config.Spare(spare)
	}
}

// alone emits a sighting that is not waiting.
func (j *Joiner) alone(e *entry) {
	j.counts.Alone++
	if e.Call != nil {
		j.config.Emit(e.Call)
	}
}

// release emits a sighting that waits.
func (j *Joiner) release(e *entry) {
	j.drop(e)
	j.alone(e)
}

func (j *Joiner) hold(w *waiting, arrived *entry) {
	e := new(entry)
	*e = *arrived
	end := w.end(e.Client)
	*end = append(*end, e)
	e.prev = j.newest
	if j.newest != nil {
		j.newest.next = e
	} else {
		j.oldest = e
	}
	j.newest = e
	j.counts.Waiting++
}

func (j *Joiner) drop(e *entry) {
	w := j.conns[e.conn]
	end := w.end(e.Client)
	if i := slices.Index(*end, e); i >= 0 {
		*end = slices.Delete(*end, i, i+1)
	}
	if len(w.client)+len(w.server) == 0 {
		delete(j.conns, e.conn)
	}
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		j.oldest = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		j.newest = e.prev
	}
	e.prev, e.next = nil, nil
	j.counts.Waiting--
}
