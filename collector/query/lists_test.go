package query

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// TestPagesAreCompleteAndOrdered pages while endpoints come and go: none of those that stay is missed or repeated.
func TestPagesAreCompleteAndOrdered(t *testing.T) {
	w := &world{}
	for i := range 2500 {
		w.endpoints = append(w.endpoints, &v1.Endpoint{Id: fmt.Sprintf("e:%04d", i), Service: "s", Method: "GET", Route: fmt.Sprintf("/r%04d", i/2*2), State: "active"})
	}
	for i := range 10 {
		w.endpoints = append(w.endpoints, &v1.Endpoint{Id: fmt.Sprintf("e:c%d", i), Service: "s", Method: "GET", Route: "/c", State: "candidate"})
	}
	rand.Shuffle(len(w.endpoints), func(i, j int) { w.endpoints[i], w.endpoints[j] = w.endpoints[j], w.endpoints[i] })
	_, local, _ := serve(t, w, nil)
	c := v1.NewInventoryClient(local)
	seen := map[string]bool{}
	last, pages := "", 0
	for token := ""; ; pages++ {
		res, err := c.ListEndpoints(bounded(t), &v1.ListEndpointsRequest{PageSize: 300, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range res.GetEndpoints() {
			if key := e.GetRoute() + e.GetId(); key <= last || seen[e.GetId()] {
				t.Fatalf("%s after %s", key, last)
			} else {
				last = key
			}
			seen[e.GetId()] = true
		}
		if token = res.GetNextPageToken(); token == "" {
			break
		}
		// An endpoint that sorts before what was sent moves nothing.
		w.endpoints = append(w.endpoints, &v1.Endpoint{Id: fmt.Sprintf("e:n%d", pages), Service: "a", Route: "/", State: "active"})
	}
	if len(seen) != 2500 {
		t.Errorf("%d endpoints, want 2500", len(seen))
	}
	res, err := c.ListEndpoints(bounded(t), &v1.ListEndpointsRequest{Candidates: true, PageSize: 1000})
	if err != nil || len(res.GetEndpoints()) != 1000 || res.GetNextPageToken() == "" {
		t.Errorf("candidates: %d, %v", len(res.GetEndpoints()), err)
	}
	for name, req := range map[string]*v1.ListEndpointsRequest{
		"too large":    {PageSize: maxPage + 1},
		"garbage":      {PageToken: "???"},
		"short":        {PageToken: "AAAA"},
		"other filter": {PageToken: res.GetNextPageToken()},
	} {
		if _, err := c.ListEndpoints(bounded(t), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAgentsComeByNode(t *testing.T) {
	_, local, _ := serve(t, &world{}, nil)
	res, err := v1.NewAgentsClient(local).ListAgents(bounded(t), &v1.ListAgentsRequest{})
	if err != nil || len(res.GetAgents()) != 2 || res.GetAgents()[0].GetNode() != "n1" || res.GetNextPageToken() != "" {
		t.Errorf("agents: %v %v", res, err)
	}
}

// TestAgentsWithLongReportsComeInPages has more to say than fits in a message.
func TestAgentsWithLongReportsComeInPages(t *testing.T) {
	var all []*v1.Agent
	for i := range 3 * maxAgentsBytes / (1 << 20) {
		all = append(all, &v1.Agent{Node: fmt.Sprintf("n%03d", i), Health: &v1.Health{Version: strings.Repeat("x", 1<<20)}})
	}
	all[0].Health.Version = strings.Repeat("x", maxAgentsBytes+1) // Alone too much, but a page has at least one.
	_, local, _ := serve(t, &world{}, func(c *Config) { c.Sources.Agents = func() []*v1.Agent { return all } })
	c, got, n := v1.NewAgentsClient(local), []string{}, 0
	for token := ""; ; n++ {
		res, err := c.ListAgents(bounded(t), &v1.ListAgentsRequest{PageSize: 1000, PageToken: token}, grpc.MaxCallRecvMsgSize(maxAgentsBytes+2<<20))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range res.GetAgents() {
			got = append(got, a.GetNode())
		}
		if token = res.GetNextPageToken(); token == "" {
			break
		}
	}
	for i, a := range all {
		if len(got) != len(all) || got[i] != a.GetNode() {
			t.Fatalf("got %v", got)
		}
	}
	if n != 4 {
		t.Errorf("%d pages before the last, want 4", n)
	}
}

// TestWatchFindings sends what is there, then changes; a slow watcher gets the newest revision only.
func TestWatchFindings(t *testing.T) {
	finding := func(id string, revision uint64) *v1.Finding {
		return &v1.Finding{Id: id, Rule: "r", Revision: revision, FirstSeen: timestamppb.New(time.Unix(int64(revision), 0))}
	}
	w := &world{findings: []*v1.Finding{finding("f:2", 2), finding("f:1", 1)}}
	changes := NewChanges()
	_, local, _ := serve(t, w, func(c *Config) { c.Changes = changes })
	stream, err := v1.NewFindingsClient(local).WatchFindings(bounded(t), &v1.WatchFindingsRequest{Rule: "r"})
	if err != nil {
		t.Fatal(err)
	}
	want := func(id string, revision uint64) {
		t.Helper()
		f, err := stream.Recv()
		if err != nil || f.GetId() != id || f.GetRevision() != revision {
			t.Fatalf("%v %v, want %s revision %d", f, err, id, revision)
		}
	}
	want("f:1", 1)
	want("f:2", 2)
	changes.Publish(finding("f:1", 1)) // known already
	changes.Publish(&v1.Finding{Id: "f:9", Rule: "other", Revision: 1})
	changes.Publish(finding("f:1", 2))
	want("f:1", 2)

	slow := changes.watch()
	for i := range 1000 {
		changes.Publish(finding("f:3", uint64(i)), finding("f:4", uint64(i)))
	}
	if got := slow.take(); len(got) != 2 || got[0].GetRevision() != 999 {
		t.Errorf("a slow watcher holds %d", len(got))
	}
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "query.sock")
	l, err := ListenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := ListenSocket(path); err == nil {
		t.Error("a second collector took the socket")
	}
	// A killed collector leaves its socket behind.
	stale := filepath.Join(t.TempDir(), "s")
	leave(t, stale)
	l2, err := ListenSocket(stale)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	l2.Close()
	l.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenSocket(file); err == nil {
		t.Error("a file was replaced")
	}
}
