package query

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	maxLast = 10_000
	// storedSkew is how much earlier than a call's own time its batch may have been stored: the clocks of two hosts.
	storedSkew = 10 * time.Second
)

type events struct {
	v1.UnimplementedEventsServer
	s *Server
}

// GetEvents sends what the journal holds and, with follow, what comes after it, each call once.
//
// History is read twice when following: once in full while nobody queues, then once more from where the first reading
// began to end, after the reader is in the feed. Positions, not ids, tell what was sent already.
func (e *events) GetEvents(req *v1.GetEventsRequest, stream v1.Events_GetEventsServer) error {
	match, err := compile(req.GetAllow(), req.GetDeny())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if req.GetLast() > maxLast {
		return status.Errorf(codes.InvalidArgument, "last %d: at most %d", req.GetLast(), maxLast)
	}
	if req.GetFollow() && req.GetUntil() != nil {
		return status.Error(codes.InvalidArgument, "follow and until exclude each other")
	}
	release, ok := e.s.follow()
	if !ok {
		return tooMany(cap(e.s.followers))
	}
	defer release()
	r := &reading{
		history: e.s.cfg.Sources.History, stopping: e.s.stopping,
		stream: stream, seen: map[uint32]uint64{}, match: inTime(match, req),
	}
	begun := e.s.cfg.Now()
	if n := int(req.GetLast()); n > 0 {
		err = r.newest(stream.Context(), n, req, begun)
	} else {
		err = r.read(stream.Context(), stored(req), r.send)
	}
	if err != nil || !req.GetFollow() {
		return err
	}
	f := e.s.cfg.Calls.follow(r.match)
	defer e.s.cfg.Calls.leave(f)
	if err := r.read(stream.Context(), begun.Add(-storedSkew), r.send); err != nil {
		return err
	}
	return r.live(stream.Context(), f)
}

// inTime adds the request's time range to match.
func inTime(match func(*v1.Call) bool, req *v1.GetEventsRequest) func(*v1.Call) bool {
	since, until := req.GetSince(), req.GetUntil()
	return func(c *v1.Call) bool {
		at := c.GetTime().AsTime()
		if since != nil && at.Before(since.AsTime()) || until != nil && !at.Before(until.AsTime()) {
			return false
		}
		return match(c)
	}
}

func stored(req *v1.GetEventsRequest) time.Time {
	if req.GetSince() == nil {
		return time.Time{}
	}
	return req.GetSince().AsTime().Add(-storedSkew)
}

// reading is one GetEvents stream and what it has sent.
type reading struct {
	history  func(context.Context, time.Time, func(Batch) bool) error
	stopping <-chan struct{}
	stream   v1.Events_GetEventsServer
	match    func(*v1.Call) bool
	// seen is the highest position that was read, by partition.
	seen map[uint32]uint64
}

// read hands matching calls at positions not yet seen to take.
func (r *reading) read(ctx context.Context, from time.Time, take func(*v1.Call) error) error {
	var failed error
	err := r.history(ctx, from, func(b Batch) bool {
		failed = r.batch(b, take)
		if failed == nil && r.ended() {
			failed = errStopping()
		}
		return failed == nil
	})
	switch {
	case failed != nil:
		return failed
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case err != nil:
		return status.Errorf(codes.Unavailable, "read the journal: %v", err)
	}
	return nil
}

func (r *reading) ended() bool {
	select {
	case <-r.stopping:
		return true
	default:
		return false
	}
}

func (r *reading) batch(b Batch, take func(*v1.Call) error) error {
	if b.Seq <= r.seen[b.Partition] {
		return nil
	}
	r.seen[b.Partition] = b.Seq
	for _, c := range b.Calls {
		if !r.match(c) {
			continue
		}
		if err := take(c); err != nil {
			return err
		}
	}
	return nil
}

func (r *reading) send(c *v1.Call) error {
	return r.stream.Send(&v1.GetEventsResponse{Of: &v1.GetEventsResponse_Call{Call: c}})
}

func (r *reading) lag(missed uint64) error {
	if missed == 0 {
		return nil
	}
	return r.stream.Send(&v1.GetEventsResponse{Of: &v1.GetEventsResponse_Lag{Lag: &v1.Lag{Missed: missed}}})
}

// newest sends the last n matches. It looks back in windows, each ten times as long, so that few recent calls do not
// cost a reading of the whole journal.
func (r *reading) newest(ctx context.Context, n int, req *v1.GetEventsRequest, now time.Time) error {
	oldest := stored(req)
	for window := time.Minute; ; window *= 10 {
		from, whole := now.Add(-window), false
		if !from.After(oldest) || window > 1000*time.Hour {
			from, whole = oldest, true
		}
		ring := make([]*v1.Call, 0, min(n, 256))
		next := 0
		r.seen = map[uint32]uint64{}
		err := r.read(ctx, from, func(c *v1.Call) error {
			if len(ring) < n {
				ring = append(ring, c)
				return nil
			}
			ring[next] = c
			next = (next + 1) % n
			return nil
		})
		if err != nil {
			return err
		}
		if len(ring) < n && !whole {
			continue
		}
		for i := range ring {
			if err := r.send(ring[(next+i)%len(ring)]); err != nil {
				return err
			}
		}
		return nil
	}
}

// live sends what the feed brings until the reader leaves.
func (r *reading) live(ctx context.Context, f *follower) error {
	for {
		batches, missed := f.take()
		for _, q := range batches {
			if err := r.lag(q.missed); err != nil {
				return err
			}
			if err := r.batch(q.batch, r.send); err != nil {
				return err
			}
		}
		if err := r.lag(missed); err != nil {
			return err
		}
		select {
		case <-f.wake:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-r.stopping:
			return errStopping()
		}
	}
}
