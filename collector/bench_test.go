package main

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spile/spile/proto/columns"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// BenchmarkCollector sends batches of 1,000 calls over mTLS and waits until the inventory has them: sync, decode, route,
// inventory, detection and commit are in it. CPU is that of both ends; payloads are made before.
//
// The number of services decides how many records a batch becomes, and each record and commit waits for the disk.
func BenchmarkCollector(b *testing.B) {
	for _, services := range []int{1, 30} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) { benchmarkCollector(b, services) })
	}
}

func benchmarkCollector(b *testing.B, services int) {
	const perBatch, kinds = 1000, 16
	r := start(b, b.TempDir())
	a := r.agent("bench", 1)
	enc, err := columns.NewEncoder()
	if err != nil {
		b.Fatal(err)
	}
	payloads, bytes := make([][]byte, kinds), 0
	for k := range payloads {
		calls := make([]*v1.Call, perBatch)
		for i := range calls {
			c := shopCall(fmt.Sprintf("%x%06x", k+1, i), fmt.Sprintf("/api/v%d/users/%d/orders", i%12, i*7919%100000), 200)
			c.Authority = fmt.Sprintf("service-%d.example", i%services)
			c.Source.Port = uint32(30000 + i)
			calls[i] = c
		}
		if payloads[k], err = enc.Encode(nil, calls); err != nil {
			b.Fatal(err)
		}
		bytes += len(payloads[k])
	}
	batches := (b.N + perBatch - 1) / perBatch
	received := make(chan error, 1)
	b.ResetTimer()
	cpu := cpuTime()
	go func() {
		for range batches {
			if _, err := a.stream.Recv(); err != nil {
				received <- err
				return
			}
		}
		received <- nil
	}()
	for i := range batches {
		a.send(&v1.PublishRequest{Of: &v1.PublishRequest_Batch{Batch: &v1.Batch{Epoch: 1, Seq: uint64(i + 1), Count: perBatch,
			Payload: payloads[i%kinds], Sealed: timestamppb.Now()}}})
	}
	if err := <-received; err != nil {
		b.Fatal(err)
	}
	for r.taken(b) < uint64(batches*perBatch) {
		time.Sleep(5 * time.Millisecond)
	}
	b.StopTimer()
	calls := float64(batches * perBatch)
	b.ReportMetric(calls/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(calls/(cpuTime()-cpu).Seconds(), "calls/s/core")
	b.ReportMetric(float64(bytes)/(kinds*perBatch), "B/call")
}

// taken asks how many calls the inventory has.
func (r *running) taken(t testing.TB) uint64 {
	t.Helper()
	w, out, errs := testWorld("", "status", "--data", r.data, "-o", "json")
	if code := run(context.Background(), w); code != 0 {
		t.Fatal(errs)
	}
	st := lines[struct {
		Counts []struct {
			Stage, Name string
			Value       uint64
		}
	}](t, out.String())
	for _, c := range st[0].Counts {
		if c.Stage == "inventory" && c.Name == "calls" {
			return c.Value
		}
	}
	return 0
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
