package intake

import (
	"math/rand/v2"
	"testing"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// TestACallIsCountedOnce sends batches again, as an agent does that saw no receipt: by a stream that was cut, by another run
// of it that empties the spool, and after a journal that failed.
func TestACallIsCountedOnce(t *testing.T) {
	j := &shelf{}
	s := newServer(t, j)
	a := connected(t, s)
	send := func(epoch, seq uint64, n int) {
		t.Helper()
		b := batchOf(t, seq, testCalls(n, func(int) string { return "a.example" }))
		b.Epoch = epoch
		if _, err := s.take(t.Context(), a, b); err != nil {
			t.Fatal(err)
		}
	}
	want := func(calls, again uint64) {
		t.Helper()
		if c := s.Counts(); c.Calls != calls || c.CallsAgain != again || a.calls != calls {
			t.Errorf("counted %d calls and %d again, the agent %d; want %d and %d", c.Calls, c.CallsAgain, a.calls, calls, again)
		}
	}
	send(9, 1, 5)
	send(9, 2, 7)
	send(9, 2, 7)
	want(12, 7)
	send(10, 2, 3) // another run numbers its batches anew
	want(15, 7)
	send(9, 3, 2) // and may still hold what the run before did not get away
	send(9, 1, 5)
	want(17, 12)
	if got := len(j.records[Partition("a.example")]); got != 6 {
		t.Errorf("%d records in the journal: each copy is stored, its readers tell them apart", got)
	}
	bad := &v1.Batch{Epoch: 10, Seq: 3, Count: 4, Payload: []byte("no")}
	for range 2 {
		if r, err := s.take(t.Context(), a, bad); err != nil || r.Rejected != 4 {
			t.Fatalf("receipt %v, %v", r, err)
		}
	}
	if a.refused != 4 || s.Counts().Refused != 4 {
		t.Errorf("refused %d, in all %d: want 4 once", a.refused, s.Counts().Refused)
	}
}

// TestTakenAgreesWithAList compares with a list of all that came, within what is remembered.
func TestTakenAgreesWithAList(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var all taken
	known, high := map[[2]uint64]bool{}, map[uint64]uint64{}
	for range 50_000 {
		epoch := uint64(1 + r.IntN(againEpochs))
		seq := high[epoch] + uint64(r.IntN(40))
		seq -= min(seq, uint64(r.IntN(againBatches/2)))
		if r.IntN(500) == 0 {
			seq += uint64(r.IntN(3 * againBatches))
		}
		if seq++; high[epoch] >= seq && high[epoch]-seq >= againBatches {
			continue
		}
		key := [2]uint64{epoch, seq}
		if got := all.first(epoch, seq); got == known[key] {
			t.Fatalf("batch %d of epoch %d (newest %d): first is %v", seq, epoch, high[epoch], got)
		}
		known[key], high[epoch] = true, max(high[epoch], seq)
	}
	for epoch := range uint64(1000) {
		all.first(100+epoch, 1)
	}
	if len(all) != againEpochs {
		t.Errorf("%d epochs are remembered", len(all))
	}
}
