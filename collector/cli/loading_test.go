package cli

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestPatience(t *testing.T) {
	loads := status.Error(codes.Unavailable, "the inventory is still loading (3 of 64 partitions)")
	stopping := status.Error(codes.Unavailable, "the collector is stopping")
	for name, c := range map[string]struct {
		answers []error
		asked   int
	}{
		"loaded":         {[]error{nil}, 1},
		"loads, then is": {[]error{loads, loads, nil}, 3},
		"stops":          {[]error{loads, stopping, nil}, 2},
		"fails":          {[]error{errors.New("no"), nil}, 1},
	} {
		asked := 0
		err := patient(t.Context(), func() error {
			asked++
			return c.answers[asked-1]
		})
		if asked != c.asked || !errors.Is(err, c.answers[c.asked-1]) {
			t.Errorf("%s: asked %d times: %v", name, asked, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := patient(ctx, func() error { return loads }); !loading(err) {
		t.Errorf("interrupted: %v", err)
	}
	var failure *Failure
	if err := (&client{name: "x"}).explain(t.Context(), loads); !errors.As(err, &failure) || failure.Code != ExitUnreachable {
		t.Errorf("in the end: %v", err)
	}
}
