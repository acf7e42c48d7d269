package query

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

func ids(t *testing.T, c v1.EventsClient, ctx context.Context, req *v1.GetEventsRequest) []string {
	t.Helper()
	stream, err := c.GetEvents(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for {
		res, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, res.GetCall().GetId())
	}
}

func TestHistoryByTimeNumberAndFilter(t *testing.T) {
	w, now := &world{}, time.Now()
	w.store(now.Add(-3*time.Hour), 1, call("old", "/a", 200, now.Add(-3*time.Hour)))
	w.store(now.Add(-2*time.Minute), 2, call("a", "/users/1", 200, now.Add(-2*time.Minute)), call("b", "/users/2", 404, now.Add(-2*time.Minute)))
	w.store(now, 3, call("c", "/orders", 500, now.Add(-time.Second)))
	_, local, _ := serve(t, w, nil)
	c := v1.NewEventsClient(local)
	for name, tc := range map[string]struct {
		req  *v1.GetEventsRequest
		want []string
	}{
		"all":        {&v1.GetEventsRequest{}, []string{"old", "a", "b", "c"}},
		"since":      {&v1.GetEventsRequest{Since: timestamppb.New(now.Add(-5 * time.Minute))}, []string{"a", "b", "c"}},
		"until":      {&v1.GetEventsRequest{Until: timestamppb.New(now.Add(-time.Minute))}, []string{"old", "a", "b"}},
		"last":       {&v1.GetEventsRequest{Last: 2}, []string{"b", "c"}},
		"last, wide": {&v1.GetEventsRequest{Last: 50}, []string{"old", "a", "b", "c"}},
		"last since": {&v1.GetEventsRequest{Last: 50, Since: timestamppb.New(now.Add(-time.Minute))}, []string{"c"}},
		"prefix":     {&v1.GetEventsRequest{Allow: []*v1.CallFilter{{Route: "/users/*"}}}, []string{"a", "b"}},
		"class":      {&v1.GetEventsRequest{Allow: []*v1.CallFilter{{StatusCode: 4}, {StatusCode: 500}}}, []string{"b", "c"}},
		"deny":       {&v1.GetEventsRequest{Deny: []*v1.CallFilter{{Path: "/users/2"}}}, []string{"old", "a", "c"}},
		"last match": {&v1.GetEventsRequest{Last: 1, Allow: []*v1.CallFilter{{Method: "get", Path: "/users/*"}}}, []string{"b"}},
	} {
		if got := ids(t, c, bounded(t), tc.req); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestBadQuestionsAreRefused(t *testing.T) {
	_, local, _ := serve(t, &world{}, nil)
	many := make([]*v1.CallFilter, maxFilters+1)
	for i := range many {
		many[i] = &v1.CallFilter{}
	}
	for name, req := range map[string]*v1.GetEventsRequest{
		"star inside":  {Allow: []*v1.CallFilter{{Path: "/a*b"}}},
		"status":       {Allow: []*v1.CallFilter{{StatusCode: 42}}},
		"too many":     {Deny: many},
		"last":         {Last: maxLast + 1},
		"follow until": {Follow: true, Until: timestamppb.Now()},
	} {
		stream, err := v1.NewEventsClient(local).GetEvents(bounded(t), req)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFollowSendsEachCallOnce stores and publishes while a reader changes from history to live.
func TestFollowSendsEachCallOnce(t *testing.T) {
	w := &world{}
	feed := NewFeed(0)
	_, local, _ := serve(t, w, func(c *Config) { c.Calls = feed })
	const total = 400
	go func() {
		for i := 1; i <= total; i++ {
			feed.Publish(w.store(time.Now(), uint64(i), call(strconv.Itoa(i), "/x", 200, time.Now())))
			time.Sleep(200 * time.Microsecond)
		}
	}()
	stream, err := v1.NewEventsClient(local).GetEvents(bounded(t), &v1.GetEventsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= total; i++ {
		res, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := res.GetCall().GetId(); got != strconv.Itoa(i) {
			t.Fatalf("call %d is %s", i, got)
		}
	}
}

// TestSlowReaderIsToldItsLag publishes much more than a queue holds; nobody waits, and missed + sent = matching.
func TestSlowReaderIsToldItsLag(t *testing.T) {
	feed := NewFeed(100)
	f := feed.follow(func(c *v1.Call) bool { return c.GetStatusCode() == 200 })
	const batches = 50
	for i := 1; i <= batches; i++ {
		feed.Publish(Batch{Seq: uint64(i), Calls: []*v1.Call{call("a", "/", 200, time.Time{}), call("b", "/", 500, time.Time{}), call("c", "/", 200, time.Time{}),
			call("d", "/", 200, time.Time{})}})
	}
	taken, missed := f.take()
	if len(taken) != 25 || missed != 25*3 {
		t.Errorf("%d batches and %d missed, want 25 and 75", len(taken), missed)
	}
	feed.Publish(Batch{Seq: batches + 1, Calls: []*v1.Call{call("e", "/", 200, time.Time{})}})
	if taken, missed := f.take(); len(taken) != 1 || taken[0].missed != 0 || missed != 0 {
		t.Errorf("after the lag: %v %d", taken, missed)
	}
	feed.leave(f)
	feed.Publish(Batch{Seq: 99, Calls: []*v1.Call{call("f", "/", 200, time.Time{})}})
	if taken, _ := f.take(); len(taken) != 0 {
		t.Error("a reader that left still gets calls")
	}
}

func TestFollowersAreBoundedAndEndWithTheServer(t *testing.T) {
	s, local, _ := serve(t, &world{}, func(c *Config) { c.Followers = 1 })
	first, err := v1.NewEventsClient(local).GetEvents(bounded(t), &v1.GetEventsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	for len(s.followers) == 0 {
		time.Sleep(time.Millisecond)
	}
	second, err := v1.NewEventsClient(local).GetEvents(bounded(t), &v1.GetEventsRequest{Follow: true})
	if err == nil {
		_, err = second.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("second follower: %v", err)
	}
	begun := time.Now()
	s.Stop(bounded(t))
	if _, err := first.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("follower at stop: %v", err)
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("stop took %s", took)
	}
}
