package query

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// TestAPartIsNotShownAsTheWhole asks a collector that loads: what it has of the inventory is refused, how it is is told.
func TestAPartIsNotShownAsTheWhole(t *testing.T) {
	w := &world{
		services: []*v1.Service{{Name: "s"}}, endpoints: []*v1.Endpoint{{Id: "e:1", State: "active"}}, findings: []*v1.Finding{{Id: "f:1"}},
		loading: errors.New("the inventory is still loading (3 of 64 partitions)"),
	}
	_, local, _ := serve(t, w, nil)
	ask := map[string]func() (int, error){
		"services": func() (int, error) {
			res, err := v1.NewInventoryClient(local).ListServices(bounded(t), &v1.ListServicesRequest{})
			return len(res.GetServices()), err
		},
		"endpoints": func() (int, error) {
			res, err := v1.NewInventoryClient(local).ListEndpoints(bounded(t), &v1.ListEndpointsRequest{})
			return len(res.GetEndpoints()), err
		},
		"findings": func() (int, error) {
			res, err := v1.NewFindingsClient(local).ListFindings(bounded(t), &v1.ListFindingsRequest{})
			return len(res.GetFindings()), err
		},
		"watch": func() (int, error) {
			stream, err := v1.NewFindingsClient(local).WatchFindings(bounded(t), &v1.WatchFindingsRequest{})
			if err != nil {
				return 0, err
			}
			_, err = stream.Recv()
			return 1, err
		},
	}
	for name, f := range ask {
		if _, err := f(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "3 of 64") {
			t.Errorf("%s while loading: %v", name, err)
		}
	}
	if _, err := v1.NewAgentsClient(local).GetStatus(bounded(t), &v1.GetStatusRequest{}); err != nil {
		t.Errorf("status while loading: %v", err)
	}
	w.mu.Lock()
	w.loading = nil
	w.mu.Unlock()
	for name, f := range ask {
		if n, err := f(); err != nil || n != 1 {
			t.Errorf("%s afterwards: %d, %v", name, n, err)
		}
	}
}
