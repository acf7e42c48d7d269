package ship

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func testSpool(t *testing.T, dir string, limit int64, epoch uint64) *spool {
	t.Helper()
	s, err := openSpool(dir, limit, epoch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	return s
}

func mustAppend(t *testing.T, s *spool, count uint32, payload []byte) {
	t.Helper()
	if err := s.append(count, time.Unix(1e9, 5), payload); err != nil {
		t.Fatal(err)
	}
}

// take sends the next batch, as the sender does.
func take(t *testing.T, s *spool) (*entry, record) {
	t.Helper()
	e, r := s.next()
	if e == nil {
		t.Fatal("nothing to send")
	}
	if !s.launch(e) {
		t.Fatal("the next batch is gone")
	}
	return e, r
}

func released(uint32) {}

func account(s *spool) Counts {
	c := Counts{Dropped: map[string]uint64{}}
	s.counts(&c)
	return c
}

func segments(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestSpoolKeepsOrderAndRemoves(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir, 1<<20, 7)
	for i := range 300 {
		mustAppend(t, s, uint32(i+1), bytes.Repeat([]byte{byte(i)}, 1000))
	}
	if len(segments(t, dir)) < 2 {
		t.Fatal("the test needs several segments")
	}
	for i := range 300 {
		e, r := take(t, s)
		if r.seq != uint64(i+1) || r.count != uint32(i+1) || e.seg.epoch != 7 || !r.sealed.Equal(time.Unix(1e9, 5)) ||
			!bytes.Equal(r.payload, bytes.Repeat([]byte{byte(i)}, 1000)) {
			t.Fatalf("batch %d came back as %+v", i+1, r)
		}
	}
	for i := range 300 {
		rejected := uint32(0)
		if i == 299 {
			rejected = 1 << 30 // A collector cannot reject more than there was.
		}
		n := uint32(0)
		if known := s.receipt(7, uint64(i+1), rejected, func(b uint32) { n = b }); !known || n != 1000 {
			t.Fatalf("receipt %d: %d bytes, known %v", i+1, n, known)
		}
	}
	if s.receipt(7, 1, 0, released) {
		t.Error("a receipt counted twice")
	}
	c := account(s)
	if c.Spooled != 0 || c.Rejected != 300 || c.Receipted != 299*300/2 || c.BatchesReceipted != 300 {
		t.Errorf("%+v", c)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if left := segments(t, dir); len(left) != 0 {
		t.Errorf("left on disk: %v", left)
	}
}

func TestSpoolRewindSendsAgainInOrder(t *testing.T) {
	s := testSpool(t, t.TempDir(), 1<<20, 7)
	for range 5 {
		mustAppend(t, s, 1, []byte("x"))
	}
	for range 4 {
		take(t, s)
	}
	s.receipt(7, 2, 0, released)
	s.rewind()
	for _, want := range []uint64{1, 3, 4, 5} {
		if _, r := take(t, s); r.seq != want {
			t.Fatalf("batch %d, want %d", r.seq, want)
		}
	}
}

func TestSpoolOverflowDropsOldestAndCounts(t *testing.T) {
	dir := t.TempDir()
	const limit = 64 << 10
	s := testSpool(t, dir, limit, 7)
	take := func() uint64 { _, r := take(t, s); return r.seq }
	mustAppend(t, s, 10, make([]byte, 1000))
	take() // In flight when its segment is dropped: its receipt still counts.
	for range 499 {
		mustAppend(t, s, 10, make([]byte, 1000))
		if s.bytes > limit {
			t.Fatalf("%d bytes in the spool", s.bytes)
		}
	}
	c := account(s)
	if c.Dropped[DropSpoolFull] == 0 || c.Spooled+c.Dropped[DropSpoolFull] != 5000 {
		t.Errorf("%+v", c)
	}
	size := int64(0)
	for _, name := range segments(t, dir) {
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		size += st.Size()
	}
	if size != s.bytes || size > limit {
		t.Errorf("%d bytes on disk, %d counted, limit %d", size, s.bytes, limit)
	}
	if !s.receipt(7, 1, 0, released) {
		t.Error("the receipt of a batch in flight was not taken")
	}
	if first := take(); first != c.Dropped[DropSpoolFull]/10+2 {
		t.Errorf("the oldest left is %d after %d dropped", first, c.Dropped[DropSpoolFull])
	}
	s.rewind()
	after := account(s)
	if after.Receipted != 10 || after.Spooled+after.Dropped[DropSpoolFull]+after.Receipted != 5000 {
		t.Errorf("%+v", after)
	}
	if err := s.append(1, time.Now(), make([]byte, limit)); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("a batch above the limit: %v", err)
	}
}

func TestSpoolCountsFlightThatCannotBeSentAgain(t *testing.T) {
	s := testSpool(t, t.TempDir(), 64<<10, 7)
	mustAppend(t, s, 10, make([]byte, 1000))
	take(t, s)
	for range 100 {
		mustAppend(t, s, 10, make([]byte, 1000))
	}
	before := account(s)
	s.rewind() // The stream ends, and the batch is no longer on disk.
	after := account(s)
	if after.Dropped[DropSpoolFull] != before.Dropped[DropSpoolFull]+10 || after.Spooled+after.Dropped[DropSpoolFull] != 1010 {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

func TestSpoolSurvivesDamage(t *testing.T) {
	for name, c := range map[string]struct {
		damage                     func(file []byte) []byte
		recovered, unread, tornMin uint64
	}{
		"nothing":        {func(b []byte) []byte { return b }, 6, 0, 0},
		"torn payload":   {func(b []byte) []byte { return b[:len(b)-1] }, 6, 3, 1},
		"torn head":      {func(b []byte) []byte { return b[:len(b)-100-recordHead+5] }, 3, 0, 5},
		"a flipped bit":  {func(b []byte) []byte { b[segmentHead+recordHead+50] ^= 1; return b }, 6, 1, 0},
		"a broken head":  {func(b []byte) []byte { b[segmentHead+recordHead+100] ^= 1; return b }, 1, 0, 200},
		"no magic":       {func(b []byte) []byte { b[0] = 0; return b }, 0, 0, 400},
		"empty":          {func([]byte) []byte { return nil }, 0, 0, 0},
		"zeros appended": {func(b []byte) []byte { return append(b, make([]byte, 4096)...) }, 6, 0, 4096},
		"length raised":  {func(b []byte) []byte { b[segmentHead+8] = 0xff; return b }, 0, 0, 300},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := testSpool(t, dir, 1<<20, 7)
			for i := range 3 {
				mustAppend(t, s, uint32(i+1), bytes.Repeat([]byte("p"), 100))
			}
			if err := s.close(); err != nil {
				t.Fatal(err)
			}
			file := segments(t, dir)[0]
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, c.damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			s = testSpool(t, dir, 1<<20, 7)
			got := account(s)
			if got.Recovered != c.recovered || got.Dropped[DropSpoolRead] != c.unread || got.Spooled != c.recovered-c.unread || got.TornBytes < c.tornMin {
				t.Errorf("%+v", got)
			}
			for sent := uint64(0); sent < got.Spooled; {
				_, r := take(t, s)
				sent += uint64(r.count)
			}
			mustAppend(t, s, 1, []byte("new"))
			if e, r := take(t, s); r.seq != 1 || e.seg.epoch < 7 || got.Spooled > 0 && e.seg.epoch < 8 {
				t.Errorf("a new batch is %d of epoch %d", r.seq, e.seg.epoch)
			}
		})
	}
}

func TestSpoolCountsWhatVanishes(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir, 1<<20, 7)
	mustAppend(t, s, 5, []byte("x"))
	if err := os.Truncate(segments(t, dir)[0], 3); err != nil {
		t.Fatal(err)
	}
	if e, _ := s.next(); e != nil {
		t.Error("a batch that is not there was sent")
	}
	if c := account(s); c.Dropped[DropSpoolRead] != 5 || c.Spooled != 0 {
		t.Errorf("%+v", c)
	}
}

func TestSpoolRefusesADirectoryItCannotUse(t *testing.T) {
	dir := t.TempDir()
	testSpool(t, dir, 1<<20, 7)
	_, err := openSpool(dir, 1<<20, 8)
	if !errors.Is(err, ErrSpool) || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("in use: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openSpool(file, 1<<20, 8); !errors.Is(err, ErrSpool) || !strings.Contains(err.Error(), file) {
		t.Errorf("a file: %v", err)
	}
}
