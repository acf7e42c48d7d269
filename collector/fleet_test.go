package main

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// TestADaemonSetWithOneSecret: twelve pods with one certificate, their epochs interleaved; each is a node of its own, and each
// call counts.
func TestADaemonSetWithOneSecret(t *testing.T) {
	r := start(t, t.TempDir())
	bundle := r.enroll("*")
	const pods, batches = 12, 3
	var fleet []*agent
	for n := range uint64(pods) {
		a, err := r.connect(bundle, &v1.Hello{Version: "fake", Epoch: 1000 + n, Node: fmt.Sprintf("node-%02d", n)})
		if err != nil {
			t.Fatal(err)
		}
		fleet = append(fleet, a)
	}
	for batch := range batches {
		for n, a := range fleet {
			if receipt := a.calls(shopCall(fmt.Sprintf("%x", batch*pods+n+1), "/a", 200)); receipt.GetRejected() != 0 {
				t.Errorf("%v", receipt)
			}
		}
	}
	until(t, "each call counts", func() bool { return byRoute(t, r)["GET /a"].Calls == pods*batches })
	nodes := map[string]int{}
	for _, c := range lines[callLine](t, ok(t, "calls", "--data", r.data, "-o", "json")) {
		nodes[c.Node]++
	}
	if len(nodes) != pods || nodes["node-00"] != batches || nodes["node-11"] != batches {
		t.Errorf("calls by node: %v", nodes)
	}
	if out := ok(t, "agents", "--data", r.data); strings.Count(out, "connected") != pods {
		t.Errorf("agents: %s", out)
	}
}

func TestWhoMaySpeakForWhom(t *testing.T) {
	r := start(t, t.TempDir())
	one, all := r.enroll("n1"), r.enroll("*")
	for _, name := range []string{"", "n1"} {
		if _, err := r.connect(one, &v1.Hello{Epoch: 1, Node: name}); err != nil {
			t.Errorf("n1 says %q: %v", name, err)
		}
	}
	for name, why := range map[string]string{"n2": `certificate is that of node "n1"`, "*": `certificate is that of node "n1"`} {
		if _, err := r.connect(one, &v1.Hello{Epoch: 1, Node: name}); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), why) {
			t.Errorf("n1 says %q: %v", name, err)
		}
	}
	for name, why := range map[string]string{"": "SPILE_NODE", "*": "node name must be", "a/b": "node name must be", strings.Repeat("a", 129): "node name must be"} {
		if _, err := r.connect(all, &v1.Hello{Epoch: 1, Node: name}); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), why) {
			t.Errorf("any node says %.20q: %v", name, err)
		}
	}
}
