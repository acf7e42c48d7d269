package main

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "github.com/spile/spile/proto/spile/v1"
)

type (
	callLine struct {
		ID, Node, Path, Route, Service string
		StatusCode                     int `json:"status_code"`
	}
	endpointLine struct {
		Service, Method, Route, State string
		Calls                         uint64
		Statuses, Auth                map[string]uint64
		Coverage                      *float64
	}
	findingLine struct {
		ID, Rule, Service, Route string
		Count                    uint64
	}
)

func byRoute(t *testing.T, r *running, args ...string) map[string]endpointLine {
	t.Helper()
	all := map[string]endpointLine{}
	for _, e := range lines[endpointLine](t, ok(t, append([]string{"endpoints", "--data", r.data, "-o", "json"}, args...)...)) {
		all[e.Method+" "+e.Route] = e
	}
	return all
}

// TestCallsInInventoryAndFindingsOut is the straight line from the wire on: an agent's batch becomes calls with routes,
// services, endpoints and findings, and stays through a restart.
func TestCallsInInventoryAndFindingsOut(t *testing.T) {
	data := t.TempDir()
	r := start(t, data)
	a := r.agent("n1", 1)
	leak := shopCall("3", "/users/3", 200)
	leak.Auth = &v1.Auth{Scheme: "api_key", Location: "query", Name: "access_token", Credential: "h:0123456789abcdef01234567"}
	// The coverage of the process that served the newest call; of the other endpoint nobody says.
	first, newest := shopCall("1", "/users/1/orders", 200), shopCall("2", "/users/2/orders", 404)
	first.Destination.Coverage, newest.Destination.Coverage = proto.Float64(0.25), proto.Float64(0.999)
	receipt := a.calls(first, newest, leak, shopCall("4", "/nothing", 404))
	if receipt.GetSeq() != 1 || receipt.GetRejected() != 0 {
		t.Fatalf("receipt: %v", receipt)
	}
	until(t, "the inventory has the calls", func() bool { return byRoute(t, r)["GET /users/{id}/orders"].Calls == 2 })
	calls := lines[callLine](t, ok(t, "calls", "--data", data, "-o", "json"))
	if len(calls) != 4 || calls[0].Route != "/users/{id}/orders" || calls[0].Service != "shop.example" || calls[0].Node != "n1" {
		t.Errorf("calls: %+v", calls)
	}
	if got := lines[callLine](t, ok(t, "calls", "--data", data, "-o", "json", "--status", "4xx", "--not", "route=/nothing")); len(got) != 1 || got[0].StatusCode != 404 {
		t.Errorf("filtered: %+v", got)
	}
	check := func(when string, r *running) {
		t.Helper()
		active := byRoute(t, r)
		if e := active["GET /users/{id}/orders"]; e.Statuses["200"] != 1 || e.Statuses["404"] != 1 || e.Auth["bearer"] != 2 || e.State != "active" {
			t.Errorf("%s: %+v", when, e)
		} else if e.Coverage == nil || *e.Coverage != 0.999 || active["GET /users/{id}"].Coverage != nil {
			t.Errorf("%s: coverage %v, %+v", when, e.Coverage, active)
		}
		if out := ok(t, "endpoints", "--data", r.data); !strings.Contains(out, " 99.9%  curl") || !strings.Contains(out, " ?  curl") {
			t.Errorf("%s: endpoints: %s", when, out)
		}
		if _, shown := active["GET /nothing"]; shown || byRoute(t, r, "--all")["GET /nothing"].State != "candidate" {
			t.Errorf("%s: a path that never existed: %+v", when, active)
		}
		if out := ok(t, "services", "--data", r.data); !strings.Contains(out, "shop.example") || !strings.Contains(out, "nginx") {
			t.Errorf("%s: services: %s", when, out)
		}
		var fs []findingLine
		until(t, "a finding is stored", func() bool {
			fs = lines[findingLine](t, ok(t, "findings", "--data", r.data, "-o", "json"))
			return len(fs) > 0
		})
		if len(fs) != 1 || fs[0].Rule != "credential-in-url" || fs[0].Route != "/users/{id}" || fs[0].Count != 1 {
			t.Errorf("%s: findings: %+v", when, fs)
		}
	}
	check("at first", r)

	// The same batch again, as after a lost receipt, counts nothing twice.
	a.batch(1, shopCall("1", "/users/1/orders", 200), shopCall("2", "/users/2/orders", 404), leak, shopCall("4", "/nothing", 404))
	a.calls(shopCall("5", "/other", 200))
	until(t, "the next batch", func() bool { return byRoute(t, r)["GET /other"].Calls == 1 })
	check("after a repeat", r)
	if got := lines[callLine](t, ok(t, "calls", "--data", data, "-o", "json")); len(got) != 5 {
		t.Errorf("%d calls after a repeat, want 5", len(got))
	}

	if code := r.stop(); code != 0 {
		t.Fatalf("exit %d: %s", code, r.errs)
	}
	again := start(t, data)
	check("after a restart", again)
	// A new epoch of the agent begins at 1 and is no repeat.
	again.agent("n1", 2).calls(shopCall("6", "/other", 200))
	until(t, "the new epoch counts", func() bool { return byRoute(t, again)["GET /other"].Calls == 2 })
}

func TestStatusAgentsAndSinksTell(t *testing.T) {
	sink := t.TempDir() + "/findings.jsonl"
	r := start(t, t.TempDir(), "--sink", "file,path="+sink+",format=ocsf,name=siem")
	if out := ok(t, "status", "--data", r.data); !strings.Contains(out, "0 of 0 connected") {
		t.Errorf("status without an agent: %s", out)
	}
	a := r.agent("n1", 1)
	a.calls(shopCall("1", "/x", 200))
	a.health(&v1.Health{
		Rungs: map[string]string{"socket": "tp_btf"}, Targets: []string{"netns=self"},
		Counts: []*v1.Count{{Stage: "kernel", Name: "events", Value: 12}, {Stage: "kernel", Name: "ring_full", Value: 3, Lost: true}},
		Probes: []*v1.Probe{{Library: "openssl", Path: "/lib/libssl.so.3", State: "attached"}, {Library: "openssl", Path: "/opt/libssl.so", State: "failed", Reason: "no symbol SSL_read"}},
		// What a host under attack could say of itself.
		Coverage: []*v1.Coverage{{Pid: 42, Process: "node\x1b[31m", Reason: "BoringSSL without symbols", TlsBytes: 4000, DecodedBytes: 1000}},
	})
	var out string
	until(t, "the health report of a collector that has read all", func() bool {
		out = ok(t, "status", "--data", r.data)
		return strings.Contains(out, "tp_btf") && strings.Contains(out, "up to date")
	})
	for _, want := range []string{"1 of 1 connected", "netns=self", "events 12; lost: ring_full 3", "1 of 2 attached", "no symbol SSL_read", "1.0kB of 4.0kB of TLS decoded, 25.0%", "[31m  42       4.0kB    1.0kB  25.0%  BoringSSL without symbols", "up to date"} {
		if !strings.Contains(out, want) {
			t.Errorf("status does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Errorf("an escape sequence reached the terminal: %q", out)
	}
	if out := ok(t, "agents", "--data", r.data); !strings.Contains(out, "connected") || !strings.Contains(out, "1/2") {
		t.Errorf("agents: %s", out)
	}
	if out := ok(t, "sinks", "--data", r.data); !strings.Contains(out, "siem") || !strings.Contains(out, "ocsf") {
		t.Errorf("sinks: %s", out)
	}
}
