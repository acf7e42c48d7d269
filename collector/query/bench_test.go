package query

import (
	"context"
	"fmt"
	"testing"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// BenchmarkListEndpoints asks for one page of 1,000 in the middle of 100,000 endpoints.
func BenchmarkListEndpoints(b *testing.B) {
	all := make([]*v1.Endpoint, 100_000)
	for i := range all {
		all[i] = &v1.Endpoint{Id: fmt.Sprintf("e:%016x", i), Service: fmt.Sprintf("service-%03d.example", i/500), Method: "GET", Route: fmt.Sprintf("/api/things-%d/{id}", i%500), State: "active"}
	}
	i := &inventory{s: &Server{cfg: Config{Now: time.Now, Sources: Sources{Loading: func() error { return nil }, Endpoints: func(string) []*v1.Endpoint { return all }}}}}
	token := ""
	for range 50 {
		res, err := i.ListEndpoints(context.Background(), &v1.ListEndpointsRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			b.Fatal(err)
		}
		token = res.GetNextPageToken()
	}
	b.ResetTimer()
	for b.Loop() {
		res, err := i.ListEndpoints(context.Background(), &v1.ListEndpointsRequest{PageSize: 1000, PageToken: token})
		if err != nil || len(res.GetEndpoints()) != 1000 {
			b.Fatal(err)
		}
	}
}
