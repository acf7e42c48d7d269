package flow

import (
	"slices"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/parse"
)

// lookup finds the stream of c or begins one.
func (f *Flow) lookup(c *chunk.Chunk) *stream {
	if s := f.streams[c.Stream]; s != nil {
		return s
	}
	f.counts.Streams++
	s := &stream{Stream: Stream{
		ID: c.Stream, Conn: c.Conn, ConnBirth: c.ConnBirth, Local: c.Local, Remote: c.Remote, Owner: c.Owner,
		Layer: c.Layer, Fresh: c.Flags.Has(chunk.Fresh), Unbound: c.Flags.Has(chunk.Unbound),
	}}
	f.streams[c.Stream] = s
	f.active.push(s)
	f.bound()
	return s
}

// bound keeps the number of streams within what the configuration allows.
func (f *Flow) bound() {
	for f.active.n > f.cfg.MaxStreams {
		f.counts.Evicted++
		f.park(f.active.last)
	}
	for f.parked.n > f.cfg.MaxStreams {
		f.counts.Forgotten++
		f.finish(f.parked.last)
	}
}

// wake makes s the most recently used stream.
func (f *Flow) wake(s *stream) {
	s.in.remove(s)
	f.active.push(s)
	f.bound()
}

// park takes the parser from s; what it had open is settled as at a close.
func (f *Flow) park(s *stream) {
	if s.parser != nil {
		s.parser.Close(s.last)
		f.add(s, s.parser.Counts())
		f.settle(s)
		f.buffered -= s.buffered
		s.buffered, s.parser = 0, nil
	}
	for i := range s.dir {
		t := &s.dir[i]
		t.gapBytes += uint64(len(t.held))
		t.held = nil
	}
	s.in.remove(s)
	f.parked.push(s)
	f.tell(s)
}

// minRequestBytes is the frame head and the first byte of a request's HEADERS (RFC 9113 section 4.1). The kernel finds its way
// back into a stream of frames by their looks; what it took for more requests than the bytes could hold were none.
const minRequestBytes = 10

// settle counts the requests that the kernel saw begin and no parser could tell of: where the end of a connection is
// lost, no later stream id proves them. An answer may prove requests that the kernel's count shows only later.
func (f *Flow) settle(s *stream) {
	if !s.proto.exact {
		return
	}
	t := &s.dir[s.requests]
	s.settled += s.counted.Emitted + s.counted.Lost + s.counted.Unanswered
	s.counted = parse.Counts{}
	if begun := min(uint64(t.heads), t.next/minRequestBytes); begun > s.settled {
		f.lose(s, s.index, begun-s.settled)
		s.settled = begun
	}
}

// tell hands on what became of calls of s.
func (f *Flow) tell(s *stream) {
	if told := s.told; told != (Told{}) {
		s.told = Told{}
		f.cfg.Settled(&s.Stream, told)
	}
}

// mute parks s for good.
func (f *Flow) mute(s *stream) {
	f.park(s)
	s.muted = true
	f.counts.Muted++
	f.cfg.Mute(s.ID)
}

// forget drops what is settled.
func (f *Flow) forget(s *stream) {
	f.tell(s)
	if s.closing {
		f.closing = slices.DeleteFunc(f.closing, func(o *stream) bool { return o == s })
	}
	s.in.remove(s)
	delete(f.streams, s.ID)
}

// close ends a stream, now or when its last chunks had time to come.
func (f *Flow) close(c *chunk.Chunk) {
	s := f.streams[c.Stream]
	if s == nil {
		if c.Offset+c.PeerOff == 0 {
			return
		}
		s = f.lookup(c)
	}
	if s.closing {
		f.counts.Duplicates++
		return
	}
	f.learn(s, c)
	s.closing, s.final = true, *c
	s.final.Data = nil
	if s.whole() || s.muted {
		f.finish(s)
		return
	}
	f.closing = append(f.closing, s)
	if len(f.closing) > f.cfg.MaxStreams {
		f.finish(f.closing[0])
	}
}

// whole says that every byte up to the close was accounted for.
func (s *stream) whole() bool {
	return s.dir[chunk.Egress].next >= s.final.Offset && s.dir[chunk.Ingress].next >= s.final.PeerOff
}

// finish settles a stream that was closed, or that is given up.
func (f *Flow) finish(s *stream) {
	ends := [2]struct {
		offset uint64
		heads  uint32
	}{chunk.Ingress: {s.final.PeerOff, s.final.PeerHeads}, chunk.Egress: {s.final.Offset, s.final.Heads}}
	for d, end := range ends {
		t := &s.dir[d]
		var heads uint32
		if end.heads > t.heads {
			heads = end.heads - t.heads
		}
		if end.offset > t.next && !s.muted {
			s.Gapped = true
			f.gap(s, chunk.Direction(d), end.offset-t.next, heads, s.final.Time)
			t.next, t.heads = end.offset, t.heads+heads
		}
	}
	f.park(s)
	if !s.muted {
		f.loseUntold(s)
	}
	f.forget(s)
}

// loseUntold counts the calls of a stream that had no parser when they passed.
func (f *Flow) loseUntold(s *stream) {
	in, out := uint64(s.dir[chunk.Ingress].gapHeads), uint64(s.dir[chunk.Egress].gapHeads)
	index, n := -1, max(in, out)
	if s.proto != nil && s.proto.exact {
		f.settle(s)
		n = 0
	} else if s.proto != nil {
		index, n = s.index, uint64(s.dir[s.requests].gapHeads)
	} else if s.Local.IsValid() && s.Remote.IsValid() {
		// Nothing tells who asked but the ports: a client's is ephemeral, and those lie above the ones of services.
		s.Client = s.Local.Port() > s.Remote.Port()
		requests := in
		if s.Client {
			requests = out
		}
		if requests > 0 {
			n = requests
		}
	}
	f.lose(s, index, n)
	s.dir[0].gapHeads, s.dir[1].gapHeads = 0, 0
}

// Tick tells the time since boot: closes that waited are settled, and silent streams are parked.
func (f *Flow) Tick(now time.Duration) {
	f.expire(now)
	f.restSome()
	for s := f.active.last; s != nil && f.now-s.last >= f.cfg.Idle; s = f.active.last {
		f.counts.Idle++
		f.park(s)
	}
}

// mayRest notes a stream whose parser may wait for bytes that do not come.
func (f *Flow) mayRest(s *stream) {
	if s.resting == 0 {
		s.resting = max(f.now, 1)
		f.resting = append(f.resting, s)
	}
}

// restSome tells parsers of streams that have fallen silent. A stream is looked at once a second.
func (f *Flow) restSome() {
	n := 0
	for n < len(f.resting) && f.now-f.resting[n].resting >= rest {
		s := f.resting[n]
		n++
		s.resting = 0
		if s.parser == nil {
			continue
		}
		if f.now-s.last < rest || s.parser.Rest(f.now) {
			f.mayRest(s)
		}
		f.account(s)
		f.tell(s)
	}
	f.resting = slices.Delete(f.resting, 0, n)
}

// expire settles closes that waited long enough.
func (f *Flow) expire(now time.Duration) {
	f.now = max(f.now, now)
	for len(f.closing) > 0 && f.now-f.closing[0].final.Time >= straggle {
		f.finish(f.closing[0])
	}
}

// Flush settles everything that is open, as at the end of a recording.
func (f *Flow) Flush() {
	for len(f.closing) > 0 {
		f.finish(f.closing[0])
	}
	for _, l := range []*list{&f.active, &f.parked} {
		for l.last != nil {
			s := l.last
			f.finish(s)
		}
	}
}

// list is an intrusive list of streams, most recently used first.
type list struct {
	first, last *stream
	n           int
}

func (l *list) push(s *stream) {
	s.in, s.prev, s.next = l, nil, l.first
	if l.first != nil {
		l.first.prev = s
	} else {
		l.last = s
	}
	l.first = s
	l.n++
}

func (l *list) remove(s *stream) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.first = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		l.last = s.prev
	}
	s.in, s.prev, s.next = nil, nil, nil
	l.n--
}
