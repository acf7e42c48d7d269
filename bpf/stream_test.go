package bpf

import (
	"bytes"
	"fmt"
	"testing"
)

// side is one direction of a stream as the events tell it.
type side struct {
	data   []byte // captured, in order; gaps are left out
	next   uint64 // offset after the last event
	gaps   []gap
	seq    uint32 // of the next event
	heads  uint32
	flags  uint8 // of all events together
	events int
}

type gap struct{ from, bytes uint64 }

// talk is a stream: both sides, and its end.
type talk struct {
	first Event
	side  [2]side
	close *Event
}

// talks puts events together by stream, and fails where they contradict each other.
func talks(t testing.TB, events []Record) map[uint64]*talk {
	t.Helper()
	streams := map[uint64]*talk{}
	for _, r := range events {
		e := r.Event
		if e.Kind == EventClose && streams[e.Stream] == nil {
			streams[e.Stream] = &talk{first: e}
		}
		s := streams[e.Stream]
		switch e.Kind {
		case EventData:
			if s == nil {
				s = &talk{first: e}
				streams[e.Stream] = s
			}
			d := &s.side[e.Direction]
			if e.Offset < d.next {
				t.Errorf("stream %d: offset %d after %d", e.Stream, e.Offset, d.next)
			}
			if e.Offset > d.next {
				d.gaps = append(d.gaps, gap{d.next, e.Offset - d.next})
			}
			if e.Seq < d.seq {
				t.Errorf("stream %d: sequence %d after %d", e.Stream, e.Seq, d.seq)
			}
			if e.Heads < d.heads {
				t.Errorf("stream %d: %d heads after %d", e.Stream, e.Heads, d.heads)
			}
			d.data = append(d.data, r.Data...)
			d.next, d.seq, d.heads = e.Offset+uint64(e.Length), e.Seq+1, e.Heads
			d.flags |= e.Flags
			d.events++
		case EventClose:
			if s.close != nil {
				t.Errorf("stream %d closes twice", e.Stream)
			}
			s.close = &e
		}
	}
	return streams
}

// of returns the streams of one kind of owner.
func of(streams map[uint64]*talk, comm string, layer uint8) []*talk {
	var found []*talk
	for _, s := range streams {
		name, _, _ := bytes.Cut(s.first.Comm[:], []byte{0})
		if string(name) == comm && s.first.Layer == layer {
			found = append(found, s)
		}
	}
	return found
}

// only returns the one stream that is to be there.
func only(t testing.TB, events []Record, comm string, layer uint8) *talk {
	t.Helper()
	found := of(talks(t, events), comm, layer)
	if len(found) != 1 {
		t.Fatalf("%d streams of %s in layer %d, want 1 of %s", len(found), comm, layer, summary(events))
	}
	return found[0]
}

func summary(events []Record) string {
	var b bytes.Buffer
	for i, r := range events {
		if i == 40 {
			fmt.Fprintf(&b, "\n  ... %d events", len(events))
			break
		}
		e := r.Event
		comm, _, _ := bytes.Cut(e.Comm[:], []byte{0})
		fmt.Fprintf(&b, "\n  kind %d layer %d dir %d flags %#x stream %x conn %x %s/%d off %d len %d cap %d heads %d %.40q",
			e.Kind, e.Layer, e.Direction, e.Flags, e.Stream, e.Conn, comm, e.Tgid, e.Offset, e.Length, e.Captured, e.Heads, r.Data)
	}
	return b.String()
}

const (
	layerSocket = 1
	layerTLS    = 2

	ingress = 0
	egress  = 1

	flagFresh     = 1
	flagTruncated = 2
	flagFault     = 4
	flagUnseen    = 8
	flagHead      = 16
	flagUnbound   = 32
)
