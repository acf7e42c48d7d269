package cli

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	// loadPatience is how long a verb waits, without a word, for a collector that has just started.
	loadPatience = 10 * time.Second
	loadPoll     = 100 * time.Millisecond
)

// loading tells a collector that answers but has not loaded its inventory yet from one that does not answer.
func loading(err error) bool {
	st, ok := status.FromError(err)
	return ok && st.Code() == codes.Unavailable && strings.Contains(st.Message(), "is still loading")
}

// patient asks again while the collector loads its inventory.
func patient(ctx context.Context, ask func() error) error {
	limit := time.NewTimer(loadPatience)
	defer limit.Stop()
	for {
		err := ask()
		if !loading(err) {
			return err
		}
		select {
		case <-time.After(loadPoll):
		case <-limit.C:
			return err
		case <-ctx.Done():
			return err
		}
	}
}

// findings follows findings; next returns one after the other. A collector that loads refuses with the first of them.
func (c *client) findings(ctx context.Context, req *v1.WatchFindingsRequest) (next func() (*v1.Finding, error), err error) {
	var stream v1.Findings_WatchFindingsClient
	var first *v1.Finding
	err = patient(ctx, func() (err error) {
		if stream, err = v1.NewFindingsClient(c).WatchFindings(c.stream(ctx), req); err == nil {
			first, err = stream.Recv()
		}
		return err
	})
	return func() (f *v1.Finding, err error) {
		if f, first = first, nil; f != nil {
			return f, nil
		}
		return stream.Recv()
	}, err
}
