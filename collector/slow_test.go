package main

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// TestASlowReaderLagsAndNobodyWaits follows without reading while calls come in: intake goes on, and what the reader gets
// in the end plus what it is told to have missed is every call.
func TestASlowReaderLagsAndNobodyWaits(t *testing.T) {
	r := start(t, t.TempDir())
	conn, err := grpc.NewClient("unix:"+r.data+"/query.sock", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStaticStreamWindowSize(64<<10))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream, err := v1.NewEventsClient(conn).GetEvents(ctx, &v1.GetEventsRequest{Follow: true, Since: timestamppb.New(time.Now().Add(-time.Hour))})
	if err != nil {
		t.Fatal(err)
	}
	a := r.agent("n1", 1)
	// The first call shows that the reader follows.
	a.calls(shopCall("f", "/first", 200))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	const batches, per = 40, 500
	paths := make([]string, per)
	for i := range paths {
		paths[i] = "/users/1"
	}
	for i := range batches {
		a.calls(batchOf(100+i*per, paths)...)
	}
	until(t, "the inventory has all although nobody reads", func() bool { return r.taken(t) == batches*per+1 })
	var got, missed uint64
	for got+missed < batches*per {
		res, err := stream.Recv()
		if err != nil {
			t.Fatalf("after %d calls and %d missed: %v", got, missed, err)
		}
		missed += res.GetLag().GetMissed()
		if res.GetCall() != nil {
			got++
		}
	}
	// Nor does a reader who stopped reading hold up the end.
	if _, err := v1.NewEventsClient(conn).GetEvents(ctx, &v1.GetEventsRequest{}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if code := r.stop(); code != 0 || time.Since(begun) > 10*time.Second {
		t.Errorf("the end took %s with code %d: %s", time.Since(begun), code, r.errs)
	}
	if got+missed != batches*per || missed == 0 || got == 0 {
		t.Errorf("%d got, %d missed of %d", got, missed, batches*per)
	}
}
