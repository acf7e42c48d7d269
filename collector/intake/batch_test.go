package intake

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spile/spile/proto/columns"
	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var noon = time.Unix(1_795_255_200, 0)

// shelf is a journal in memory.
type shelf struct {
	mu      sync.Mutex
	records map[int][]Record
	err     error
	panics  bool
}

func (s *shelf) Append(_ context.Context, partition int, r Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panics {
		panic("out of shelves")
	}
	if s.err != nil {
		return s.err
	}
	if s.records == nil {
		s.records = map[int][]Record{}
	}
	s.records[partition] = append(s.records[partition], r)
	return nil
}

func newServer(t testing.TB, j Journal) *Server {
	t.Helper()
	s, err := New(Config{Journal: j, Key: []byte("key"), Node: func(tls.ConnectionState) (string, error) { return "node", nil },
		Speaker: func(certified, _ string) (string, error) { return certified, nil }, Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testCalls(n int, service func(i int) string) []*v1.Call {
	calls := make([]*v1.Call, n)
	for i := range calls {
		calls[i] = &v1.Call{Id: fmt.Sprintf("%032x", i), Time: timestamppb.New(noon.Add(time.Duration(i) * time.Millisecond)),
			Authority: service(i), Node: "somebody else", Service: "something else"}
	}
	return calls
}

func batchOf(t testing.TB, seq uint64, calls []*v1.Call) *v1.Batch {
	t.Helper()
	enc, err := columns.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	payload, err := enc.Encode(nil, calls)
	if err != nil {
		t.Fatal(err)
	}
	return &v1.Batch{Epoch: 9, Seq: seq, Count: uint32(len(calls)), Payload: payload}
}

func decode(t testing.TB, r Record) []*v1.Call {
	t.Helper()
	dec, err := columns.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	calls, err := dec.Decode(r.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return calls
}

func connected(t testing.TB, s *Server) *agent {
	t.Helper()
	a, err := s.connect("node")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestBatchIsSplitByPartition(t *testing.T) {
	j := &shelf{}
	s := newServer(t, j)
	// 1,200 calls of one service and 300 of others.
	calls := testCalls(1500, func(i int) string {
		if i%5 != 0 {
			return "Big.Example:443"
		}
		return fmt.Sprintf("small-%d.example", i%7)
	})
	receipt, err := s.take(t.Context(), connected(t, s), batchOf(t, 3, calls))
	if err != nil || receipt.Rejected != 0 || receipt.Seq != 3 || receipt.Epoch != 9 || receipt.CreditBytes == 0 {
		t.Fatalf("receipt %v, error %v", receipt, err)
	}
	total, parts := 0, 0
	for p, records := range j.records {
		for i, r := range records {
			if r.Agent != "node" || r.Epoch != 9 || r.Seq != 3 || i > 0 {
				t.Errorf("partition %d: record %d is %s %d/%d with %d calls", p, i, r.Agent, r.Epoch, r.Seq, r.Count)
			}
			list := decode(t, r)
			first, last := list[0].Time.AsTime(), list[len(list)-1].Time.AsTime()
			if len(list) != int(r.Count) || !r.Min.Equal(first) || !r.Max.Equal(last) {
				t.Errorf("record says %d calls from %v to %v, holds %d from %v to %v", r.Count, r.Min, r.Max, len(list), first, last)
			}
			for _, c := range list {
				if c.Node != "node" || Partition(c.Service) != p || c.Service != Service(c) {
					t.Fatalf("partition %d holds %v", p, c)
				}
			}
			total += len(list)
			parts++
		}
	}
	if total != 1500 || len(j.records[Partition("big.example")]) != 1 || parts < 2 {
		t.Errorf("%d calls in %d records", total, parts)
	}
	if c := s.Counts(); c.Calls != 1500 || c.Batches != 1 || c.Records != uint64(parts) || c.Refused != 0 {
		t.Errorf("%+v", c)
	}
}

func TestMalformedBatchesAreRefusedWithTheirCount(t *testing.T) {
	good := batchOf(t, 1, testCalls(10, func(int) string { return "a.example" }))
	for name, c := range map[string]struct {
		batch *v1.Batch
		text  string
	}{
		"not zstd":       {&v1.Batch{Epoch: 1, Seq: 1, Count: 7, Payload: []byte("nonsense")}, "malformed"},
		"cut off":        {&v1.Batch{Epoch: 1, Seq: 1, Count: 7, Payload: good.Payload[:len(good.Payload)/2]}, "malformed"},
		"empty":          {&v1.Batch{Epoch: 1, Seq: 1, Count: 7}, "version"},
		"wrong count":    {&v1.Batch{Epoch: 1, Seq: 1, Count: 7, Payload: good.Payload}, "says 7 calls and holds 10"},
		"count of 2^32":  {&v1.Batch{Epoch: 1, Seq: 1, Count: 1<<32 - 1, Payload: good.Payload}, "1 to 10000"},
		"payload of 5 M": {&v1.Batch{Epoch: 1, Seq: 1, Count: 7, Payload: make([]byte, 5<<20)}, "exceeds"},
	} {
		t.Run(name, func(t *testing.T) {
			j := &shelf{}
			s := newServer(t, j)
			a := connected(t, s)
			receipt, err := s.take(t.Context(), a, c.batch)
			if err != nil {
				t.Fatal(err)
			}
			if receipt.Rejected != c.batch.Count || !strings.Contains(receipt.Reason, c.text) || len(receipt.Reason) > maxReasonBytes {
				t.Errorf("receipt %v, want %d rejected and %q", receipt, c.batch.Count, c.text)
			}
			want := min(uint64(c.batch.Count), columns.MaxCalls)
			if n := s.Counts(); n.Refused != want || n.MalformedBatches != 1 || n.Calls != 0 || a.refused != want {
				t.Errorf("%+v", n)
			}
			if len(j.records) != 0 {
				t.Error("something was stored")
			}
		})
	}
}

func TestCallsOfAWrongClockAreRefusedAlone(t *testing.T) {
	j := &shelf{}
	s := newServer(t, j)
	calls := testCalls(5, func(int) string { return "a.example" })
	calls[1].Time = timestamppb.New(time.Unix(0, 0))
	calls[3].Time = timestamppb.New(noon.Add(2 * time.Hour))
	receipt, err := s.take(t.Context(), connected(t, s), batchOf(t, 1, calls))
	if err != nil || receipt.Rejected != 2 || !strings.Contains(receipt.Reason, "clock") {
		t.Fatalf("receipt %v, error %v", receipt, err)
	}
	if c := s.Counts(); c.Calls != 3 || c.Refused != 2 || c.MalformedBatches != 0 {
		t.Errorf("%+v", c)
	}
	calls = calls[1:2]
	if receipt, err = s.take(t.Context(), connected(t, s), batchOf(t, 2, calls)); err != nil || receipt.Rejected != 1 {
		t.Errorf("a batch of nothing but refused calls: %v, %v", receipt, err)
	}
}

func TestNoReceiptWithoutJournal(t *testing.T) {
	for name, j := range map[string]*shelf{"error": {err: errors.New("disk full")}, "panic": {panics: true}} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, j)
			calls := testCalls(100, func(i int) string { return fmt.Sprint("s", i, ".example") })
			receipt, err := s.take(t.Context(), connected(t, s), batchOf(t, 1, calls))
			if receipt != nil || status.Code(err) != codes.Unavailable {
				t.Errorf("receipt %v, error %v", receipt, err)
			}
			if c := s.Counts(); c.Calls != 0 || c.JournalErrors != 1 || (c.Panics > 0) != j.panics {
				t.Errorf("%+v", c)
			}
		})
	}
}

func TestBatchNumbersAreChecked(t *testing.T) {
	s := newServer(t, &shelf{})
	for _, b := range []*v1.Batch{nil, {Seq: 1}, {Epoch: 1}, {Epoch: 1, Seq: maxSeq + 1}} {
		if _, err := s.take(t.Context(), connected(t, s), b); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", b, err)
		}
	}
}

func TestTableOfAgentsIsBounded(t *testing.T) {
	s := newServer(t, &shelf{})
	s.cfg.MaxAgents = 3
	var last *agent
	for i := range 3 {
		a, err := s.connect(fmt.Sprint("node-", i))
		if err != nil {
			t.Fatal(err)
		}
		last = a
	}
	if _, err := s.connect("node-9"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a fourth: %v", err)
	}
	s.disconnect(last)
	if _, err := s.connect("node-9"); err != nil {
		t.Error(err)
	}
	if n := len(s.Agents()); n != 3 || s.Counts().RefusedStreams != 1 {
		t.Errorf("%d agents, %+v", n, s.Counts())
	}
}

// Whatever an agent sends, intake answers with a receipt that accounts for every call, or a status.
func FuzzBatch(f *testing.F) {
	good := batchOf(f, 1, testCalls(3, func(i int) string { return fmt.Sprint("s", i) }))
	f.Add(good.Epoch, good.Seq, good.Count, good.Payload)
	f.Add(uint64(1), uint64(1), uint32(0), []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0})
	f.Add(uint64(1), ^uint64(0), ^uint32(0), []byte(nil))
	f.Fuzz(func(t *testing.T, epoch, seq uint64, count uint32, payload []byte) {
		j := &shelf{}
		s := newServer(t, j)
		receipt, err := s.take(t.Context(), connected(t, s), &v1.Batch{Epoch: epoch, Seq: seq, Count: count, Payload: payload})
		if err != nil {
			if status.Code(err) != codes.InvalidArgument {
				t.Fatal(err)
			}
			return
		}
		stored := uint32(0)
		for _, records := range j.records {
			for _, r := range records {
				stored += r.Count
				decode(t, r)
			}
		}
		if stored+receipt.Rejected != count {
			t.Fatalf("%d calls: %d stored, %d rejected", count, stored, receipt.Rejected)
		}
	})
}

func BenchmarkTake(b *testing.B) {
	s := newServer(b, discard{})
	batch := batchOf(b, 1, testCalls(1000, func(i int) string { return fmt.Sprint("s", i%30, ".example") }))
	a := connected(b, s)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.take(b.Context(), a, batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/call")
}

type discard struct{}

func (discard) Append(context.Context, int, Record) error { return nil }
