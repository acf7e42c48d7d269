package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func open(t testing.TB, dir string) *Journal {
	t.Helper()
	j, err := Open(t.Context(), Config{Dir: dir, MaxBytes: 256 << 20, Warn: func(line string) { t.Log("server: " + line) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

func record(agent string, seq uint64, payload string) Record {
	at := time.Date(2026, 11, 21, 10, 0, 0, int(seq), time.UTC)
	return Record{Agent: agent, Epoch: 7, Seq: seq, Payload: []byte(payload), Count: 3, Min: at, Max: at.Add(time.Second)}
}

func append1(t testing.TB, j *Journal, partition int, r Record) {
	t.Helper()
	if err := j.Append(t.Context(), partition, r); err != nil {
		t.Fatal(err)
	}
}

// errEnough ends a Read from inside.
var errEnough = errors.New("enough")

func TestAppendedRecordsAreReadInOrderAndAfterReopening(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	for i := range uint64(5) {
		append1(t, j, 3, record("n1", i+1, fmt.Sprint("p", i)))
		append1(t, j, 4, record("n1", i+1, "another partition"))
	}
	j.Close()
	j = open(t, dir)

	var got []string
	var third uint64
	err := j.Read(t.Context(), 3, 0, func(seq uint64, r Record) error {
		want := record("n1", uint64(len(got)+1), string(r.Payload))
		if r.Agent != want.Agent || r.Epoch != want.Epoch || r.Seq != want.Seq || r.Count != want.Count || !r.Min.Equal(want.Min) || !r.Max.Equal(want.Max) {
			t.Errorf("record %d came back as %+v", len(got), r)
		}
		if want := uint64(4 - len(got)); r.Pending != want {
			t.Errorf("%d records pending behind %d, want %d", r.Pending, len(got), want)
		}
		if got = append(got, string(r.Payload)); len(got) == 3 {
			third = seq
		}
		if len(got) == 5 {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) || fmt.Sprint(got) != "[p0 p1 p2 p3 p4]" {
		t.Fatalf("read %v, %v", got, err)
	}
	err = j.Read(t.Context(), 3, third, func(_ uint64, r Record) error {
		return fmt.Errorf("first after the third: %s", r.Payload)
	})
	if err == nil || !strings.Contains(err.Error(), "first after the third: p3") {
		t.Fatal(err)
	}
	if lag, err := j.Lag(t.Context(), 3, third); err != nil || lag != 2 {
		t.Fatalf("lag %d, %v, want 2", lag, err)
	}
}

func TestReadFollowsAndEndsWithItsContext(t *testing.T) {
	j := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	got, ended := make(chan uint64, 10), make(chan error, 1)
	go func() {
		ended <- j.Read(ctx, 0, 0, func(_ uint64, r Record) error { got <- r.Seq; return nil })
	}()
	for i := range uint64(3) {
		append1(t, j, 0, record("n1", i+1, "x"))
		if seq := <-got; seq != i+1 {
			t.Fatalf("read %d, want %d", seq, i+1)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("read ended with %v", err)
	}
}

func TestScanSeesEveryPartitionSinceThen(t *testing.T) {
	j := open(t, t.TempDir())
	count := func(since time.Time) map[int]int {
		t.Helper()
		n := map[int]int{}
		if err := j.Scan(t.Context(), since, false, func(p int, _ uint64, _ Record) error { n[p]++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(time.Time{}); len(n) != 0 {
		t.Fatalf("an empty journal gave %v", n)
	}
	append1(t, j, 1, record("n1", 1, "x"))
	append1(t, j, 63, record("n1", 1, "x"))
	time.Sleep(10 * time.Millisecond)
	cut := time.Now()
	append1(t, j, 63, record("n1", 2, "x"))
	if n := count(time.Time{}); fmt.Sprint(n) != "map[1:1 63:2]" {
		t.Fatalf("all: %v", n)
	}
	if n := count(cut); fmt.Sprint(n) != "map[63:1]" {
		t.Fatalf("since: %v", n)
	}
	if n := count(time.Now().Add(time.Hour)); len(n) != 0 {
		t.Fatalf("since the future: %v", n)
	}
}

func TestConcurrentAppendersAllAreStored(t *testing.T) {
	j := open(t, t.TempDir())
	const agents, each = 8, 50
	var wg sync.WaitGroup
	for a := range agents {
		wg.Go(func() {
			for i := range uint64(each) {
				if err := j.Append(t.Context(), int(i)%Partitions, record(fmt.Sprint("n", a), i+1, "x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	last, total := map[string]uint64{}, 0
	err := j.Scan(t.Context(), time.Time{}, false, func(_ int, _ uint64, r Record) error {
		if r.Seq != last[r.Agent]+1 {
			t.Errorf("%s: %d after %d", r.Agent, r.Seq, last[r.Agent])
		}
		last[r.Agent] = r.Seq
		total++
		return nil
	})
	if err != nil || total != agents*each {
		t.Fatalf("%d records, %v", total, err)
	}
}

func TestRetentionByBytesDropsTheOldestAndSaysSo(t *testing.T) {
	j, err := Open(t.Context(), Config{Dir: t.TempDir(), MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	payload := strings.Repeat("x", 100_000)
	for i := range uint64(30) {
		append1(t, j, 0, record("n1", i+1, payload))
	}
	if n, err := j.Bytes(t.Context()); err != nil || n > 1<<20 {
		t.Fatalf("%d bytes kept, %v", n, err)
	}
	oldest, last, err := j.Bounds(t.Context())
	if err != nil || oldest < 15 || last != 30 {
		t.Fatalf("bounds %d to %d, %v", oldest, last, err)
	}
	var first uint64
	err = j.Read(t.Context(), 0, 5, func(_ uint64, r Record) error { first = r.Seq; return errEnough })
	if !errors.Is(err, errEnough) || first != oldest {
		t.Fatalf("first kept %d, %v", first, err)
	}
}

func TestBadRecordsAreRefused(t *testing.T) {
	j := open(t, t.TempDir())
	big := Record{Agent: "n1", Payload: make([]byte, MaxValueBytes+1)}
	if err := j.Append(t.Context(), 0, big); !errors.Is(err, ErrTooLarge) {
		t.Errorf("large: %v", err)
	}
	big.Payload = make([]byte, MaxValueBytes)
	if err := j.Append(t.Context(), 0, big); err != nil {
		t.Errorf("largest: %v", err)
	}
	for _, p := range []int{-1, Partitions} {
		if err := j.Append(t.Context(), p, record("n1", 1, "")); err == nil {
			t.Errorf("partition %d accepted", p)
		}
	}
	for _, agent := range []string{"", "a\r\nSpile-Seq: 9"} {
		if err := j.Append(t.Context(), 0, record(agent, 1, "")); err == nil {
			t.Errorf("agent %q accepted", agent)
		}
	}
}

func TestASecondCollectorIsToldWhoHasTheDirectory(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	_, err := Open(t.Context(), Config{Dir: dir})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d;", os.Getpid())) {
		t.Fatalf("second open: %v", err)
	}
	j.Close()
	open(t, dir)
}

func TestADamagedStreamIsNotBuried(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	append1(t, j, 0, record("n1", 1, "x"))
	j.Close()
	meta := filepath.Join(streamsDir(dir), events, "meta.inf")
	if err := os.WriteFile(meta, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), Config{Dir: dir})
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "stream EVENTS") {
		t.Fatalf("open: %v", err)
	}
}

// The engine cuts a block at the first damaged record and says nothing. Sequences after it are given out again, so whoever
// remembers one must compare it with Bounds.
func TestBoundsShowWhatDamageCutOff(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	for i := range uint64(20) {
		append1(t, j, 0, record("n1", i+1, strings.Repeat("abcdefgh", 1000)))
	}
	if first, last, err := j.Bounds(t.Context()); err != nil || first != 1 || last != 20 {
		t.Fatalf("bounds %d to %d, %v", first, last, err)
	}
	j.Close()
	blocks, err := filepath.Glob(filepath.Join(streamsDir(dir), events, "msgs", "*.blk"))
	if err != nil || len(blocks) != 1 {
		t.Fatal(blocks, err)
	}
	data, err := os.ReadFile(blocks[0])
	if err != nil {
		t.Fatal(err)
	}
	data[bytes.Index(data[len(data)/2:], []byte("abcd"))+len(data)/2] ^= 0xff
	if err := os.WriteFile(blocks[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	// Without its index the engine checks each record.
	if err := os.Remove(filepath.Join(streamsDir(dir), events, "msgs", "index.db")); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir)
	_, last, err := j.Bounds(t.Context())
	if err != nil || last < 8 || last > 11 {
		t.Fatalf("last %d after damage in the middle of 20, %v", last, err)
	}
	kept := uint64(0)
	if err := j.Scan(t.Context(), time.Time{}, false, func(int, uint64, Record) error { kept++; return nil }); err != nil || kept != last {
		t.Fatalf("%d kept, %v", kept, err)
	}
}

func TestOpenNeedsOneWritablePlace(t *testing.T) {
	for _, c := range []Config{{}, {Dir: t.TempDir(), URL: "nats://127.0.0.1:1"}} {
		if _, err := Open(t.Context(), c); err == nil {
			t.Errorf("%+v accepted", c)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Dir: filepath.Join(file, "journal")}); err == nil || !strings.Contains(err.Error(), "choose another") {
		t.Errorf("a directory below a file: %v", err)
	}
	if _, err := Open(t.Context(), Config{URL: "nats://127.0.0.1:1"}); err == nil || !strings.Contains(err.Error(), "nats://127.0.0.1:1") {
		t.Errorf("nobody there: %v", err)
	}
	if os.Getuid() != 0 {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "writable for uid") {
			t.Errorf("a read-only directory: %v", err)
		}
	}
}
