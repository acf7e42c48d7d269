package source

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/bpf"
)

// script is a Reader that says what it was given, and then that there is nothing more for now.
type script struct {
	steps  []any // bpf.Record or error
	closed int
}

func (s *script) Read(into *bpf.Record) error {
	if len(s.steps) == 0 {
		time.Sleep(time.Millisecond)
		return bpf.ErrDrained
	}
	step := s.steps[0]
	s.steps = s.steps[1:]
	if err, ok := step.(error); ok {
		return err
	}
	*into = step.(bpf.Record)
	return nil
}

func (s *script) Close() error { s.closed++; return nil }

// errGone is a reader that fails for good.
var errGone = errors.New("gone")

type table struct {
	asked []uint32
	ends  []bpf.Event
	err   error
}

func (tb *table) Forget(tgids map[uint32]struct{}, _ time.Duration) ([]bpf.Event, bool, error) {
	for tgid := range tgids {
		tb.asked = append(tb.asked, tgid)
	}
	return tb.ends, true, tb.err
}

func data(stream, offset uint64, payload string) bpf.Record {
	return bpf.Record{
		Event: bpf.Event{Kind: bpf.EventData, Layer: 2, Direction: 1, Stream: stream, Offset: offset, Length: uint32(len(payload)), Captured: uint32(len(payload))},
		Data:  []byte(payload),
	}
}

func event(kind uint8, e bpf.Event) bpf.Record {
	e.Kind = kind
	return bpf.Record{Event: e}
}

type told struct {
	order     []string
	chunks    []chunk.Chunk
	processes []Process
	ticks     int
}

// run plays a script to its end and returns what Ring handed on.
func run(t *testing.T, steps []any, tb *table) (*Ring, *told, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s := &script{steps: steps}
	r := New(s, tb)
	var got told
	err := r.Run(ctx, func(c *chunk.Chunk) {
		kept := *c
		kept.Data = slices.Clone(c.Data)
		got.chunks = append(got.chunks, kept)
		if c.Kind == chunk.Close {
			got.order = append(got.order, "close")
		} else {
			got.order = append(got.order, string(c.Data))
		}
	}, func(p Process) {
		got.processes = append(got.processes, p)
		got.order = append(got.order, "process")
	}, func(now time.Duration) {
		if now <= 0 {
			t.Errorf("tick at %v", now)
		}
		got.ticks++
		if len(s.steps) == 0 {
			cancel()
		}
	})
	return r, &got, err
}

func TestCloseFollowsItsData(t *testing.T) {
	r, got, err := run(t, []any{
		event(bpf.EventClose, bpf.Event{Layer: 2, Stream: 1, Offset: 6, PeerOffset: 9, Heads: 1, PeerHeads: 2}),
		event(bpf.EventExec, bpf.Event{Tgid: 5}),
		data(1, 0, "one"), data(1, 3, "two"), bpf.ErrDrained,
		data(2, 0, "new"), bpf.ErrDrained,
	}, &table{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"process", "one", "two", "close", "new"}; !slices.Equal(got.order, want) {
		t.Errorf("order %v, want %v", got.order, want)
	}
	end := got.chunks[2]
	if end.Stream != 1 || end.Offset != 6 || end.PeerOff != 9 || end.Heads != 1 || end.PeerHeads != 2 || end.Data != nil {
		t.Errorf("close %+v", end)
	}
	if got.ticks != 3 || r.Counts() != (Counts{Chunks: 3, Closes: 1, Processes: 1}) {
		t.Errorf("%d ticks, counts %+v", got.ticks, r.Counts())
	}
}

func TestFields(t *testing.T) {
	v4 := [16]uint8{10: 0xff, 11: 0xff, 12: 127, 15: 1}
	record := data(3, 10, "x")
	e := &record.Event
	e.Time, e.Conn, e.ConnBirth, e.Local, e.LocalPort, e.Remote, e.RemotePort = 1, 4, 2, v4, 80, [16]uint8{15: 1}, 81
	e.Seq, e.Heads, e.Flags, e.Tgid, e.Tid, e.Start, e.Netns, e.Cgroup = 5, 6, 17, 7, 8, 9, 10, 11
	copy(e.Comm[:], "nginx")
	unbound := data(9, 0, "u")
	unbound.Event.Flags = 32
	_, got, err := run(t, []any{record, unbound, bpf.ErrDrained}, &table{})
	if err != nil {
		t.Fatal(err)
	}
	c := got.chunks[0]
	if c.Local != netip.MustParseAddrPort("127.0.0.1:80") || c.Remote != netip.MustParseAddrPort("[::1]:81") {
		t.Errorf("tuple %v %v", c.Local, c.Remote)
	}
	if want := (chunk.Owner{TGID: 7, TID: 8, Start: 9, NetNS: 10, Cgroup: 11, Comm: "nginx"}); c.Owner != want {
		t.Errorf("owner %+v", c.Owner)
	}
	if c.Kind != chunk.Data || c.Layer != chunk.LayerTLS || c.Direction != chunk.Egress || !c.Flags.Has(chunk.Fresh|chunk.Head) ||
		c.Time != 1 || c.Conn != 4 || c.ConnBirth != 2 || c.Seq != 5 || c.Heads != 6 || c.Length != 1 {
		t.Errorf("chunk %+v", c)
	}
	if u := got.chunks[1]; u.Local.IsValid() || u.Remote.IsValid() || !u.Flags.Has(chunk.Unbound) {
		t.Errorf("an unbound chunk has peers: %+v", u)
	}
}

func TestMalformedIsCounted(t *testing.T) {
	badLayer, badDirection, badLength := data(1, 0, "a"), data(1, 0, "b"), data(1, 0, "c")
	badLayer.Event.Layer, badDirection.Event.Direction, badLength.Event.Length = 9, 2, 0
	r, got, err := run(t, []any{badLayer, badDirection, badLength, bpf.Record{}, bpf.ErrMalformed, data(1, 0, "ok"), bpf.ErrDrained}, &table{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Counts().Malformed != 5 || len(got.chunks) != 1 {
		t.Errorf("counts %+v, %d chunks", r.Counts(), len(got.chunks))
	}
}

func TestProcessesAndForget(t *testing.T) {
	tb := &table{ends: []bpf.Event{{Kind: bpf.EventClose, Layer: 2, Stream: 42}}}
	_, got, err := run(t, []any{
		event(bpf.EventExec, bpf.Event{Tgid: 5, Start: 3, Offset: 8, PeerOffset: 9, Netns: 2, Time: 4}),
		event(bpf.EventExit, bpf.Event{Tgid: 5, Start: 3}), bpf.ErrDrained,
	}, tb)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Process{Kind: Exec, TGID: 5, Start: 3, Exe: bpf.FileID{Dev: 8, Ino: 9}, NetNS: 2, Time: 4}); got.processes[0] != want {
		t.Errorf("exec %+v", got.processes[0])
	}
	if got.processes[1].Kind != Exit || got.processes[1].Exe != (bpf.FileID{}) {
		t.Errorf("exit %+v", got.processes[1])
	}
	if !slices.Equal(tb.asked, []uint32{5}) || len(got.chunks) != 1 || got.chunks[0].Stream != 42 || got.chunks[0].Kind != chunk.Close {
		t.Errorf("asked to forget %v, handed on %+v", tb.asked, got.chunks)
	}
}

// A crash is told before the exit that it leads to, with the kernel's facts; it ends no stream.
func TestCrash(t *testing.T) {
	tb := &table{}
	r, got, err := run(t, []any{
		event(bpf.EventCrash, bpf.Event{Tgid: 5, Start: 3, Offset: 8, PeerOffset: 9, Seq: 11, Heads: 1, Stream: 77, Flags: 1, Cgroup: 6, Time: 4, ConnBirth: 2}),
		bpf.ErrDrained,
	}, tb)
	if err != nil {
		t.Fatal(err)
	}
	p := got.processes[0]
	if p.Kind != Crash || p.TGID != 5 || p.Start != 3 || p.Exe != (bpf.FileID{Dev: 8, Ino: 9}) || p.Time != 4 || p.Cgroup != 6 {
		t.Errorf("crash %+v", p)
	}
	if c := p.Crash; c.Signal != 11 || c.Code != 1 || c.Slot != 77 || !c.InCall || c.AtSite || c.Time != 2 {
		t.Errorf("facts %+v", c)
	}
	if len(tb.asked) != 0 || r.Counts() != (Counts{Processes: 1, Crashes: 1}) {
		t.Errorf("asked to forget %v, counts %+v", tb.asked, r.Counts())
	}
}

func TestFailuresEndRun(t *testing.T) {
	broken := errors.New("broken")
	if _, _, err := run(t, []any{broken}, &table{}); !errors.Is(err, broken) {
		t.Errorf("a reader that fails: %v", err)
	}
	exit := event(bpf.EventExit, bpf.Event{Tgid: 5})
	if _, _, err := run(t, []any{exit, bpf.ErrDrained}, &table{err: broken}); !errors.Is(err, broken) {
		t.Errorf("a table that fails: %v", err)
	}
	if _, _, err := run(t, []any{errGone}, &table{}); !errors.Is(err, errGone) {
		t.Errorf("a reader that was closed by another: %v", err)
	}
}
