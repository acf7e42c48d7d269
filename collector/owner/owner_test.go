package owner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spile/spile/collector/journal"
	v1 "github.com/spile/spile/proto/spile/v1"
)

func TestEachCallCountsOnceWhateverComesTwice(t *testing.T) {
	dir := t.TempDir()
	j, c, want := openJournal(t, dir), newCoder(t), oracle{}
	r := start(t, j, nil)
	for n := range uint64(40) {
		service := fmt.Sprint("s", n%7, ".example")
		calls := callsOf(service, n, 50)
		want.add(calls)
		record := c.record(t, "n1", n+1, calls)
		put(t, j, service, record)
		if n%3 == 0 {
			put(t, j, service, record)
		}
		if n == 20 {
			// The duplicates are in other partitions than the last record: unread ones would count in the next life.
			eventually(t, "half is in", func() bool { s := r.Stats(); return s.Calls == 21*50 && s.Duplicates == 7 })
			r.stop()
			r = start(t, j, nil)
		}
	}
	eventually(t, "all is in", func() bool { s := r.Stats(); return s.Duplicates == 7 && s.Calls == 19*50 && s.Lag == 0 })
	eventually(t, "all is found", func() bool { return tables(nil, r.Findings()).calls() == want.calls() })
	want.check(t, tables(r.Endpoints(""), r.Findings()))
	var sum uint64
	for _, s := range r.Services() {
		sum += s.Calls
	}
	if s := r.Stats(); sum != want.calls() || s.Services != 7 || s.Findings != 7 || s.LostCalls != 0 || len(r.warnings()) > 0 {
		t.Errorf("%d calls, %+v, %v", sum, s, r.warnings())
	}
	if list := r.Endpoints("s3.example"); len(list) == 0 || list[0].Service != "s3.example" {
		t.Errorf("endpoints of one service: %v", list)
	}
	r.stop()
	j.Close()
	want.check(t, stored(t, openJournal(t, dir)))
}

func TestRecordsThatCannotBeReadAreCounted(t *testing.T) {
	j, c, want := openJournal(t, t.TempDir()), newCoder(t), oracle{}
	good := callsOf("a", 1, 10)
	want.add(good)
	bad := c.record(t, "n1", 1, good)
	bad.Payload = []byte("no columns")
	panics := c.record(t, "n1", 2, good)
	panics.Payload = []byte("panic")
	for _, r := range []journal.Record{bad, panics, c.record(t, "n1", 3, good)} {
		put(t, j, "a", r)
	}
	r := start(t, j, func(cfg *Config) {
		decode := cfg.Decode
		cfg.Decode = func(b []byte) ([]*v1.Call, error) {
			if string(b) == "panic" {
				panic("at the columns")
			}
			return decode(b)
		}
	})
	eventually(t, "all is in", func() bool { return tables(nil, r.Findings()).calls() == want.calls() })
	if s := r.Stats(); s.Undecodable != 2 || s.LostCalls != 20 || s.Records != 1 || s.Restarts != 0 {
		t.Errorf("%+v", s)
	}
	want.check(t, tables(r.Endpoints(""), r.Findings()))
	if w := fmt.Sprint(r.warnings()); !strings.Contains(w, "leave out record 1 of agent n1 with 10 calls") || !strings.Contains(w, "at the columns") {
		t.Error(w)
	}
}

func TestLateBatchesAreCountedNotTaken(t *testing.T) {
	j, c := openJournal(t, t.TempDir()), newCoder(t)
	calls := callsOf("a", 1, 10)
	for _, seq := range []uint64{5000, 3976, 3977, 4999, 5000} {
		put(t, j, "a", c.record(t, "n1", seq, calls))
	}
	r := start(t, j, nil)
	eventually(t, "all is in", func() bool { return r.Stats().Duplicates == 1 })
	if s := r.Stats(); s.Records != 3 || s.Late != 1 || s.LostCalls != 10 {
		t.Errorf("%+v", s)
	}
}

func TestTheSecondOwnerStopsTheFirst(t *testing.T) {
	j, c, want := openJournal(t, t.TempDir()), newCoder(t), oracle{}
	send := func(n uint64) {
		calls := callsOf("a", n, 10)
		want.add(calls)
		put(t, j, "a", c.record(t, "n1", n, calls))
	}
	send(1)
	first := start(t, j, nil)
	eventually(t, "first is in", func() bool { return first.Stats().Commits == 1 })
	second := start(t, j, nil)
	eventually(t, "second loaded", second.Ready)
	for n := uint64(2); first.Stats().Stale+second.Stats().Stale == 0; n++ {
		send(n)
	}
	winner, loser := first, second
	if first.Stats().Stale == 1 {
		winner, loser = second, first
	}
	eventually(t, "all is in", func() bool { return tables(nil, winner.Findings()).calls() == want.calls() })
	want.check(t, tables(winner.Endpoints(""), winner.Findings()))
	if w := loser.warnings(); len(w) != 1 || !errors.Is(w[0], journal.ErrStale) || winner.Stats().Stale != 0 || len(loser.Endpoints("a")) != 0 {
		t.Errorf("loser said %v, shows %v", w, loser.Endpoints("a"))
	}
}

// Each call of the record makes a finding, so it needs several commits. Each round stops after one more of them.
func TestALargeRecordIsTakenInPieces(t *testing.T) {
	j, c := openJournal(t, t.TempDir()), newCoder(t)
	put(t, j, "a", c.record(t, "n1", 1, callsOf("a", 1, 2000)))
	rounds := 0
	for ; ; rounds++ {
		cut := errors.New("cut")
		ctx, cancel := context.WithCancelCause(context.Background())
		o, err := New(Config{
			Journal: j, Decode: c.decode, Route: func(p string) string { return p[:strings.LastIndex(p, "/")] },
			Detector: func() (Detector, error) { return &tracker{perCall: true}, nil },
			Found:    func([]*v1.Finding) { cancel(cut) },
		})
		if err != nil {
			t.Fatal(err)
		}
		p := o.partitions[partitionOf("a")]
		if err := p.own(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		snap, err := j.Load(t.Context(), p.number)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := decodeMeta(snap.Meta); err != nil {
			t.Fatal(err)
		} else if m.offset == 1 {
			break
		}
	}
	r := start(t, j, nil)
	eventually(t, "loaded", r.Ready)
	var sum uint64
	for _, e := range r.Endpoints("a") {
		sum += e.Calls
	}
	if sum != 2000 || len(r.Findings()) != 2000 {
		t.Errorf("%d calls and %d findings of 2000", sum, len(r.Findings()))
	}
	if rounds < 5 {
		t.Errorf("%d commits before the last", rounds)
	}
}

func TestAQuietPartitionMovesItsPosition(t *testing.T) {
	j, c := openJournal(t, t.TempDir()), newCoder(t)
	put(t, j, "a", c.record(t, "n1", 1, callsOf("a", 1, 1)))
	other := "b"
	for n := uint64(1); n <= 5; n++ {
		put(t, j, other, c.record(t, "n1", n, callsOf(other, n, 1)))
	}
	r := start(t, j, nil)
	eventually(t, "all is in", func() bool { return r.Stats().Commits >= 2 && r.Stats().Records == 6 })
	r.stop()
	p := r.partitions[partitionOf("a")]
	if p.meta.offset != 1 {
		t.Fatalf("at %d", p.meta.offset)
	}
	if err := p.catchUp(t.Context()); err != nil || p.meta.offset != 6 {
		t.Fatalf("at %d, %v", p.meta.offset, err)
	}
	put(t, j, "a", c.record(t, "n1", 2, callsOf("a", 2, 1)))
	put(t, j, other, c.record(t, "n1", 6, callsOf(other, 6, 1)))
	if err := p.catchUp(t.Context()); err != nil || p.meta.offset != 6 {
		t.Fatalf("with a record waiting at %d, %v", p.meta.offset, err)
	}
}

// A position above the end means that the journal was cut; new records must not hide below it.
func TestAPositionBeyondTheEndGoesBack(t *testing.T) {
	j, c, want := openJournal(t, t.TempDir()), newCoder(t), oracle{}
	m := meta{offset: 1000, marks: newWatermarks()}
	if _, err := j.Commit(t.Context(), partitionOf("a"), 0, nil, m.encode()); err != nil {
		t.Fatal(err)
	}
	r := start(t, j, nil)
	eventually(t, "loaded", r.Ready)
	calls := callsOf("a", 1, 10)
	want.add(calls)
	put(t, j, "a", c.record(t, "n1", 1, calls))
	eventually(t, "it is in", func() bool { return r.Stats().Records == 1 && len(r.Findings()) == 1 })
	want.check(t, tables(r.Endpoints(""), r.Findings()))
	if w := r.warnings(); len(w) != 1 || !errors.Is(w[0], ErrCut) {
		t.Error(w)
	}
}

func TestADamagedStateIsToldNotOverwritten(t *testing.T) {
	j := openJournal(t, t.TempDir())
	if _, err := j.Commit(t.Context(), 5, 0, []journal.Entry{{Key: "ep.0", Value: []byte("\xff")}}, (&meta{}).encode()); err != nil {
		t.Fatal(err)
	}
	r := start(t, j, nil)
	eventually(t, "it says so", func() bool { return len(r.warnings()) > 0 })
	if w := fmt.Sprint(r.warnings()[0]); !strings.Contains(w, "restore bucket ep.0") || r.Ready() {
		t.Error(w)
	}
	r.stop()
	if s, err := j.Load(t.Context(), 5); err != nil || string(s.Entries["ep.0"]) != "\xff" {
		t.Error(s, err)
	}
}
