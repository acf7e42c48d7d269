package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	v1 "github.com/spile/spile/proto/spile/v1"
)

func TestTokenOverTCP(t *testing.T) {
	r := start(t, t.TempDir())
	token := filepath.Join(r.data, "token")
	code, _, errs := spile(t, "status", "--server", r.query)
	if code != 1 || !strings.Contains(errs, "no token") || !strings.Contains(errs, token) {
		t.Errorf("without the token: %d %s", code, errs)
	}
	code, _, errs = spile(t, "calls", "-f", "--server", r.query, "--token-file", write(t, "token", "guess\n"))
	if code != 1 || !strings.Contains(errs, "wrong token") {
		t.Errorf("with a wrong token: %d %s", code, errs)
	}
	ok(t, "status", "--server", r.query, "--token-file", token)
	ok(t, "endpoints", "--server", r.query, "--data", r.data)
	info, err := os.Stat(token)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("token: %v %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Join(r.data, "query.sock")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", info.Mode(), err)
	}
}

// TestQueriesFromAnotherHostAreEncrypted listens on all addresses: clear text gets nothing, TLS by the install's own
// authority gets answers.
func TestQueriesFromAnotherHostAreEncrypted(t *testing.T) {
	r := start(t, t.TempDir(), "--listen", "0.0.0.0:0")
	_, port, _ := net.SplitHostPort(r.query)
	server := "127.0.0.1:" + port
	dir := filepath.Join(t.TempDir(), "n1")
	ok(t, "agents", "enroll", "n1", "--data", r.data, "--out", dir)
	token := filepath.Join(r.data, "token")
	ok(t, "status", "--server", server, "--token-file", token, "--ca", dir+"/ca.crt")
	if code, _, errs := spile(t, "status", "--server", server, "--ca", dir+"/ca.crt"); code != 1 || !strings.Contains(errs, "no token") {
		t.Errorf("TLS without the token: %d %s", code, errs)
	}
	if code, out, errs := spile(t, "status", "--server", server, "--token-file", token); code != 3 {
		t.Errorf("clear text: %d %s %s", code, out, errs)
	}
	other := start(t, t.TempDir())
	if code, out, errs := spile(t, "status", "--server", server, "--token-file", token, "--ca", other.data+"/identity/ca.pem"); code != 3 {
		t.Errorf("another authority: %d %s %s", code, out, errs)
	}
}

func get(t *testing.T, url, host string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestHTTP(t *testing.T) {
	r := start(t, t.TempDir(), "--http-name", "spile.example")
	base := "http://" + r.web
	for path, want := range map[string]int{"/": 200, "/healthz": 200, "/metrics": 200, "/nothing": 404} {
		if code, body := get(t, base+path, ""); code != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	until(t, "ready", func() bool {
		code, _ := get(t, base+"/readyz", "")
		return code == 200
	})
	for host, want := range map[string]int{"localhost": 200, "localhost:7742": 200, "127.0.0.1": 200, "[::1]:7742": 200, "SPILE.example": 200, "spile.example.": 200,
		"evil.example": 421, "192.0.2.7": 421, "localhost.evil.example": 421} {
		if code, _ := get(t, base+"/metrics", host); code != want {
			t.Errorf("host %s: %d, want %d", host, code, want)
		}
	}
	res, err := http.Post(base+"/metrics", "text/plain", strings.NewReader("x"))
	if err != nil || res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v %v", res.StatusCode, err)
	}
	res.Body.Close()
}

// TestMetrics scrapes as Prometheus does, with an agent that names things badly.
func TestMetrics(t *testing.T) {
	r := start(t, t.TempDir(), "--sink", "file,path="+t.TempDir()+"/f,name=siem")
	a := r.agent("n1", 1)
	a.calls(shopCall("1", "/x", 200))
	counts := []*v1.Count{{Stage: "kernel", Name: "events", Value: 12}, {Stage: "kernel", Name: "ring_full", Value: 3, Lost: true},
		{Stage: "kernel", Name: "ring_full", Value: 4, Lost: true}, {Stage: "flow\n\"", Name: "\\", Value: 1}}
	for range maxMetricCounts {
		counts = append(counts, &v1.Count{Stage: "x", Name: "many"})
	}
	counts = append([]*v1.Count{coverageCount("tls_bytes", 70), coverageCount("decoded_bytes", 60), coverageCount("unbound_bytes", 5), coverageCount("quic_bytes", 4)}, counts...)
	a.health(&v1.Health{Counts: counts, Rungs: map[string]string{"socket": "tp_btf"}, Coverage: []*v1.Coverage{{Process: "node", TlsBytes: 50, DecodedBytes: 40}}})
	var page string
	until(t, "the agent's counts", func() bool {
		_, page = get(t, "http://"+r.web+"/metrics", "")
		return strings.Contains(page, "tp_btf")
	})
	for _, want := range []string{
		`spile_build_info{version="test"} 1`, `spile_calls_received_total 1`, `spile_agent_connected{node="n1"} 1`, `spile_agent_calls_total{node="n1"} 1`,
		`spile_agent_seen_total{name="events",node="n1",stage="kernel"} 12`, `spile_agent_lost_total{node="n1",reason="ring_full",stage="kernel"} 3`,
		`spile_tls_bytes_total{node="n1"} 70`, `spile_tls_decoded_bytes_total{node="n1"} 60`, `spile_tls_unbound_bytes_total{node="n1"} 5`,
		`spile_quic_bytes_total{node="n1"} 4`, `spile_workload_tls_bytes{node="n1",process="node",workload="node"} 50`,
		`spile_workload_tls_decoded_bytes{node="n1",process="",workload="other"} 20`,
		`spile_agent_rung_info{ladder="socket",node="n1",rung="tp_btf"} 1`, `spile_sink_delivered_total{sink="siem"} 0`,
		`spile_agent_seen_total{name="\\",node="n1",stage="flow\n\""} 1`, "spile_go_goroutines ", "spile_process_resident_memory_bytes ",
	} {
		if !strings.Contains(page, want+"\n") && !strings.Contains(page, "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
	for l := range strings.Lines(page) {
		if !strings.HasPrefix(l, "#") && !strings.HasPrefix(l, "spile_") {
			t.Errorf("a metric of another name: %s", l)
		}
	}
	problems, err := promlint.New(strings.NewReader(page)).Lint()
	if err != nil {
		t.Fatalf("the page does not parse: %v", err)
	}
	for _, p := range problems {
		if !strings.HasPrefix(p.Metric, "spile_go_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	if strings.Contains(page, "spile_metrics_omitted 0") {
		t.Error("what was left out is not counted")
	}
}

func TestMetricsOfManyNodesAreBounded(t *testing.T) {
	var nodes []*v1.Agent
	for i := range maxMetricNodes + 10 {
		nodes = append(nodes, &v1.Agent{Node: strings.Repeat("n", i+1)})
	}
	r, err := registry(sources{status: func() *v1.GetStatusResponse { return nil }, agents: func() []*v1.Agent { return nodes }, sinks: func() []*v1.Sink { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if n := len(f.GetMetric()); f.GetName() == "spile_agent_connected" && n != maxMetricNodes {
			t.Errorf("%d series of nodes, want %d", n, maxMetricNodes)
		}
		if v := f.GetMetric()[0].GetGauge().GetValue(); f.GetName() == "spile_metrics_omitted" && v != 10 {
			t.Errorf("%v left out, want 10", v)
		}
	}
}
