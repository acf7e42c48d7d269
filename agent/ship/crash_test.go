package ship

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What a kill leaves is what has been written, whenever it comes: the spool is copied while in use.
func TestSpoolAfterAKill(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir, 1<<20, 7)
	for i := range 50 {
		mustAppend(t, s, 2, make([]byte, 5000))
		if i%2 == 0 {
			take(t, s)
			s.receipt(7, uint64(i/2+1), 0, released)
		}
		if i%10 != 9 {
			continue
		}
		killed := t.TempDir()
		for _, name := range segments(t, dir) {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(killed, filepath.Base(name)), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		next := testSpool(t, killed, 1<<20, 8)
		c, before := account(next), account(s)
		// Batches with a receipt may still be in a segment with others; they are sent twice, not lost.
		if c.Recovered < before.Spooled || c.TornBytes != 0 || len(c.Dropped) != 0 {
			t.Fatalf("after %d batches: %+v, before the kill %+v", i+1, c, before)
		}
		last := uint64(0)
		for n := uint64(0); n < c.Recovered; {
			e, r := take(t, next)
			if e.seg.epoch != 7 || r.seq <= last {
				t.Fatalf("batch %d of epoch %d after batch %d", r.seq, e.seg.epoch, last)
			}
			last, n = r.seq, n+uint64(r.count)
		}
		if last != uint64(i+1) {
			t.Fatalf("the newest batch is %d of %d", last, i+1)
		}
	}
}

func TestCallsAreCountedWhenTheSpoolCannotBeWritten(t *testing.T) {
	cfg := nowhere(t)
	var told atomic.Bool
	cfg.Notice = func(err error) {
		if err != nil && strings.Contains(err.Error(), "write spool in "+cfg.SpoolDir) {
			told.Store(true)
		}
	}
	s := newShipper(t, cfg)
	if err := os.RemoveAll(cfg.SpoolDir); err != nil {
		t.Fatal(err)
	}
	runFor(t, s, func() {
		for i := range 10 {
			s.Add(testCall(i))
		}
		time.Sleep(50 * time.Millisecond)
	})
	c := s.Counts()
	if c.Dropped[DropSpoolWrite] != 10 || c.Spooled != 0 || !told.Load() {
		t.Errorf("told %v, %+v", told.Load(), c)
	}
	mustBalance(t, c)
}
