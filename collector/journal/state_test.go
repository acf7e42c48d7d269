package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

func commit(t testing.TB, j *Journal, partition int, revision uint64, meta string, pairs ...string) uint64 {
	t.Helper()
	var entries []Entry
	for i := 0; i < len(pairs); i += 2 {
		entries = append(entries, Entry{pairs[i], []byte(pairs[i+1])})
	}
	next, err := j.Commit(t.Context(), partition, revision, entries, []byte(meta))
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func load(t testing.TB, j *Journal, partition int) Snapshot {
	t.Helper()
	s, err := j.Load(t.Context(), partition)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func text(s Snapshot) string {
	m := map[string]string{}
	for k, v := range s.Entries {
		m[k] = string(v)
	}
	return fmt.Sprint(string(s.Meta), " ", m)
}

func TestCommitsAreLoadedAfterReopening(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	if s := load(t, j, 5); s.Revision != 0 || text(s) != " map[]" {
		t.Fatalf("a new partition: %+v", s)
	}
	r := commit(t, j, 5, 0, "m1", "ep.1", "a", "ep.2", "b", "fi.f:1", "x")
	r = commit(t, j, 5, r, "m2")
	r = commit(t, j, 5, r, "m3", "ep.2", "c", "fi.f:1", "")
	commit(t, j, 6, 0, "other", "ep.1", "z")
	j.Close()
	s := load(t, open(t, dir), 5)
	if s.Revision != r || text(s) != "m3 map[ep.1:a ep.2:c]" {
		t.Fatalf("loaded %s at %d, want revision %d", text(s), s.Revision, r)
	}
}

func TestAStaleCommitIsRefusedWhole(t *testing.T) {
	j := open(t, t.TempDir())
	old := commit(t, j, 0, 0, "m1", "ep.1", "a", "ep.2", "b")
	commit(t, j, 0, old, "m2", "ep.1", "new owner")
	var entries []Entry
	for i := range 500 {
		entries = append(entries, Entry{fmt.Sprint("ep.", i), []byte("zombie")})
	}
	for _, revision := range []uint64{0, old, old + 1000} {
		for _, n := range []int{0, 1, 500} {
			if _, err := j.Commit(t.Context(), 0, revision, entries[:n], []byte("zombie")); !errors.Is(err, ErrStale) {
				t.Errorf("revision %d, %d entries: %v", revision, n, err)
			}
		}
	}
	if s := load(t, j, 0); text(s) != "m2 map[ep.1:new owner ep.2:b]" {
		t.Fatalf("after stale commits: %s", text(s))
	}
}

func TestOneOfManyOwnersWins(t *testing.T) {
	j := open(t, t.TempDir())
	revision := uint64(0)
	for round := range 10 {
		var won sync.Map
		var wg sync.WaitGroup
		for owner := range 8 {
			wg.Go(func() {
				name := fmt.Sprint(round, "/", owner)
				next, err := j.Commit(t.Context(), 9, revision, []Entry{{"a", []byte(name)}, {"b", []byte(name)}}, []byte(name))
				if err == nil {
					won.Store(name, next)
				} else if !errors.Is(err, ErrStale) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		winners := 0
		won.Range(func(name, next any) bool {
			winners++
			revision = next.(uint64)
			if s := load(t, j, 9); text(s) != fmt.Sprintf("%s map[a:%s b:%s]", name, name, name) {
				t.Errorf("%s won and left %s", name, text(s))
			}
			return true
		})
		if winners != 1 {
			t.Fatalf("round %d: %d winners", round, winners)
		}
	}
}

func TestEveryPartitionCommitsAtOnce(t *testing.T) {
	j := open(t, t.TempDir())
	var wg sync.WaitGroup
	for p := range Partitions {
		wg.Go(func() {
			var r uint64
			for i := range 5 {
				r = commit(t, j, p, r, fmt.Sprint(i), "a", fmt.Sprint(i), "b", fmt.Sprint(i))
			}
		})
	}
	wg.Wait()
	for p := range Partitions {
		if s := load(t, j, p); text(s) != "4 map[a:4 b:4]" {
			t.Errorf("partition %d: %s", p, text(s))
		}
	}
}

// A power failure in the middle of applying a batch leaves entries that no meta follows.
func TestHalfACommitIsUndone(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	r := commit(t, j, 2, 0, "m1", "ep.1", "a", "ep.2", "b")
	r = commit(t, j, 2, r, "m2", "ep.1", "c")
	for _, e := range []Entry{{"ep.1", []byte("torn")}, {"ep.3", []byte("torn")}} {
		b := batch{id: "x", prefix: "st.02.", fence: fmt.Sprint(r)}
		m := b.message(e.Key, e.Value)
		m.Header.Del("Nats-Batch-Id")
		m.Header.Del("Nats-Batch-Sequence")
		if _, err := j.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	s := load(t, j, 2)
	if text(s) != "m2 map[ep.1:c ep.2:b]" || s.Revision <= r {
		t.Fatalf("loaded %s at %d, was %d", text(s), s.Revision, r)
	}
	if _, err := j.Commit(t.Context(), 2, r, nil, []byte("zombie")); !errors.Is(err, ErrStale) {
		t.Fatalf("the owner before: %v", err)
	}
	commit(t, j, 2, s.Revision, "m3", "ep.2", "d")
	j.Close()
	if s := load(t, open(t, dir), 2); text(s) != "m3 map[ep.1:c ep.2:d]" {
		t.Fatalf("after the next commit: %s", text(s))
	}
}

func TestTheLargestCommitFits(t *testing.T) {
	j := open(t, t.TempDir())
	var entries []Entry
	for i := range MaxEntries {
		entries = append(entries, Entry{fmt.Sprint("ep.", i), []byte("x")})
	}
	r, err := j.Commit(t.Context(), 0, 0, entries, []byte("m"))
	if err != nil {
		t.Fatal(err)
	}
	if s := load(t, j, 0); len(s.Entries) != MaxEntries || s.Revision != r {
		t.Fatalf("%d entries at %d, want %d at %d", len(s.Entries), s.Revision, MaxEntries, r)
	}
	if _, err := j.Commit(t.Context(), 0, r, append(entries, Entry{"more", nil}), []byte("m")); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("one more: %v", err)
	}
}

func TestBadCommitsAreRefused(t *testing.T) {
	j := open(t, t.TempDir())
	for _, key := range []string{"", "meta", ".a", "a.", "a..b", "a b", "a*", "a.>", "ü", strings.Repeat("k", 201)} {
		if _, err := j.Commit(t.Context(), 0, 0, []Entry{{key, []byte("x")}}, []byte("m")); err == nil {
			t.Errorf("key %q accepted", key)
		}
	}
	for name, c := range map[string][]Entry{
		"twice": {{"a", nil}, {"a", nil}},
		"large": {{"a", make([]byte, MaxValueBytes+1)}},
	} {
		if _, err := j.Commit(t.Context(), 0, 0, c, []byte("m")); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
	if _, err := j.Commit(t.Context(), 0, 0, nil, nil); err == nil {
		t.Error("no meta accepted")
	}
}

func TestWatchRemembersItsPosition(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	r := commit(t, j, 0, 0, "m", "fi.f:1", "a", "ep.1", "not watched")
	r = commit(t, j, 0, r, "m", "fi.f:2", "b")
	commit(t, j, 7, 0, "m", "fi.f:3", "c")

	failed := errors.New("sink is down")
	var got []string
	take := func(failAt, stopAt int) func(uint64, string, []byte) error {
		return func(_ uint64, key string, value []byte) error {
			if len(got) == failAt {
				return failed
			}
			got = append(got, key+"="+string(value))
			if len(got) == stopAt {
				return nil
			}
			return nil
		}
	}
	if err := j.Watch(t.Context(), "siem", "fi", take(1, -1)); !errors.Is(err, failed) {
		t.Fatal(err)
	}
	if n, err := j.Backlog(t.Context(), "siem"); err != nil || n != 2 {
		t.Fatalf("backlog %d, %v, want 2", n, err)
	}
	j.Close()
	j = open(t, dir)
	commit(t, j, 0, r, "m", "fi.f:1", "a2")

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := j.Watch(ctx, "siem", "fi", func(seq uint64, key string, value []byte) error {
		if err := take(-1, -1)(seq, key, value); err != nil {
			return err
		}
		if len(got) == 4 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || fmt.Sprint(got) != "[fi.f:1=a fi.f:2=b fi.f:3=c fi.f:1=a2]" {
		t.Fatalf("watched %v, %v", got, err)
	}
}
