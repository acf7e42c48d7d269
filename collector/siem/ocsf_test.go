package siem

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spile/spile/collector/detect"
	"github.com/spile/spile/proto/line"
	v1 "github.com/spile/spile/proto/spile/v1"
)

func world() World { return World{Version: "0.1.0", Tenant: "acme"} }

func fullFinding() *v1.Finding {
	at := time.Date(2026, 11, 21, 10, 0, 0, 123456789, time.UTC)
	return &v1.Finding{
		Id: "f:02bb3f0a1c2d4e5f", Rule: "credentials-over-plain-http", Severity: "high", Title: "Credentials are sent over plain HTTP",
		Service: "shop.example", Method: "GET", Route: "/users/{id}", Principal: "h:9f2c", State: "open", Count: 40, Confidence: 0.99,
		FirstSeen: timestamppb.New(at), LastSeen: timestamppb.New(at.Add(time.Hour)), Owasp: "API8:2023", Cwe: "CWE-319", Attack: "T1040",
		Revision: 1,
		Evidence: []*v1.Evidence{
			{Call: "00c1f0", Why: "basic credential in header without TLS", Time: timestamppb.New(at), StatusCode: 200,
				Source:      &v1.Peer{Address: "10.0.0.7", Port: 51234, Process: "curl", PodUid: "6f1c", Workload: "prod/frontend"},
				Destination: &v1.Peer{Address: "fe80::1%eth0", Port: 8443}},
			{Call: "00c1f1", Why: "again"},
		},
	}
}

func edit(change func(*v1.Finding)) *v1.Finding {
	f := fullFinding()
	change(f)
	return f
}

func findings() map[string]*v1.Finding {
	return map[string]*v1.Finding{
		"full":           fullFinding(),
		"least":          {Id: "f:0000000000000001", Rule: "r"},
		"update":         edit(func(f *v1.Finding) { f.Revision = 7 }),
		"closed":         edit(func(f *v1.Finding) { f.State = "closed"; f.Revision = 8 }),
		"info":           edit(func(f *v1.Finding) { f.Severity = "info" }),
		"low loopback":   edit(func(f *v1.Finding) { f.Severity, f.Scope = "low", "loopback" }),
		"medium":         edit(func(f *v1.Finding) { f.Severity, f.Confidence = "medium", 0.6 }),
		"critical":       edit(func(f *v1.Finding) { f.Severity, f.Confidence = "critical", 0.1 }),
		"no severity":    edit(func(f *v1.Finding) { f.Severity, f.Confidence = "", math.NaN() }),
		"sub-technique":  edit(func(f *v1.Finding) { f.Attack = "T1552.001" }),
		"own method":     edit(func(f *v1.Finding) { f.Method = "PROPFIND" }),
		"method alone":   edit(func(f *v1.Finding) { f.Method, f.Route = "PROPFIND", "" }),
		"process":        edit(func(f *v1.Finding) { f.Service = "nginx:8443" }),
		"nameless peers": edit(func(f *v1.Finding) { f.Evidence[0].Source = &v1.Peer{Port: 80}; f.Evidence[0].Destination = nil }),
		"huge": edit(func(f *v1.Finding) {
			f.Count, f.Confidence, f.Evidence[0].StatusCode = math.MaxUint64, 3, math.MaxUint32
			f.Evidence[0].Source = &v1.Peer{Address: "not an address", Port: 70000, Process: "p"}
		}),
	}
}

func TestOCSFIsValid(t *testing.T) {
	validate := validator(t, "detection_finding")
	for name, f := range findings() {
		line, err := ocsfLine(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(line); err != nil {
			t.Errorf("%s: %v\n%s", name, err, line)
		}
	}
}

func ocsfLine(f *v1.Finding) ([]byte, error) { return ocsf(world())(f) }

// A validator that accepts everything proves nothing: each of these is one step away from a valid finding.
func TestOCSFValidatorRefuses(t *testing.T) {
	validate := validator(t, "detection_finding")
	for name, breakIt := range map[string]func(object){
		"no time":              func(o object) { delete(o, "time") },
		"no metadata.product":  func(o object) { delete(o["metadata"].(object), "product") },
		"no finding uid":       func(o object) { delete(o["finding_info"].(object), "uid") },
		"unknown attribute":    func(o object) { o["route"] = "/a" },
		"unknown in an object": func(o object) { o["finding_info"].(object)["why"] = "x" },
		"profile's attribute":  func(o object) { o["cloud"] = object{"provider": "x"} },
		"severity as a word":   func(o object) { o["severity_id"] = "high" },
		"severity not listed":  func(o object) { o["severity_id"] = 7 },
		"status of base event": func(o object) { o["status_id"] = 77 },
		"other class":          func(o object) { o["class_uid"] = 2001 },
		"type of another":      func(o object) { o["type_uid"] = 200402 },
		"time as text":         func(o object) { o["time"] = "2026-11-21T10:00:00Z" },
		"count beyond integer": func(o object) { o["count"] = 1 << 40 },
		"evidence of nothing":  func(o object) { o["evidences"] = []any{object{"uid": "x"}} },
		"endpoint of nothing":  func(o object) { first(o)["src_endpoint"] = object{"port": 80} },
		"port out of range":    func(o object) { first(o)["src_endpoint"].(object)["port"] = 70000 },
		"bad address":          func(o object) { first(o)["src_endpoint"].(object)["ip"] = "10.0.0" },
		"unknown method":       func(o object) { first(o)["http_request"].(object)["http_method"] = "PROPFIND" },
		"api without operation": func(o object) {
			delete(first(o)["api"].(object), "operation")
		},
		"two of just one": func(o object) {
			o["vulnerabilities"].([]any)[0].(object)["cve"] = object{"uid": "CVE-2026-1"}
		},
	} {
		line, err := ocsfLine(fullFinding())
		if err != nil {
			t.Fatal(err)
		}
		var o object
		if err := json.Unmarshal(line, &o); err != nil {
			t.Fatal(err)
		}
		breakIt(o)
		if line, err = json.Marshal(o); err != nil {
			t.Fatal(err)
		}
		if validate(line) == nil {
			t.Errorf("%s: valid, but should not be\n%s", name, line)
		}
	}
}

func first(o object) object { return o["evidences"].([]any)[0].(object) }

func TestOCSFSaysWhatTheFindingSays(t *testing.T) {
	line, err := ocsfLine(fullFinding())
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"class_uid":2004,"class_name":"Detection Finding","category_uid":2,"category_name":"Findings",` +
		`"activity_id":1,"activity_name":"Create","type_uid":200401,"type_name":"Detection Finding: Create",` +
		`"time":1795258800123,"start_time":1795255200123,"end_time":1795258800123,"severity_id":4,"severity":"High",` +
		`"status_id":1,"status":"New","is_alert":true,"confidence_id":3,"confidence":"High","confidence_score":99,"count":40,` +
		`"message":"Credentials are sent over plain HTTP",` +
		`"metadata":{"version":"1.8.0","uid":"f:02bb3f0a1c2d4e5f:1","tenant_uid":"acme","event_code":"credentials-over-plain-http",` +
		`"log_name":"findings","product":{"name":"Spile","vendor_name":"Spile","version":"0.1.0","uid":"spile"}},` +
		`"finding_info":{"uid":"f:02bb3f0a1c2d4e5f","title":"Credentials are sent over plain HTTP",` +
		`"desc":"basic credential in header without TLS","types":["credentials-over-plain-http"],"created_time":1795255200123,` +
		`"modified_time":1795258800123,"first_seen_time":1795255200123,"last_seen_time":1795258800123,` +
		`"analytic":{"type_id":1,"type":"Rule","uid":"credentials-over-plain-http","name":"Credentials are sent over plain HTTP"},` +
		`"attacks":[{"technique":{"uid":"T1040","src_url":"https://attack.mitre.org/techniques/T1040/"}}],` +
		`"tags":[{"name":"owasp","value":"API8:2023"},{"name":"cwe","value":"CWE-319"}]},` +
		`"resources":[{"name":"shop.example","type":"API","hostname":"shop.example"}],` +
		`"vulnerabilities":[{"cwe":{"uid":"CWE-319","src_url":"https://cwe.mitre.org/data/definitions/319.html"}}],` +
		`"evidences":[{"uid":"00c1f0","api":{"operation":"GET /users/{id}","service":{"name":"shop.example"},"response":{"code":200}},` +
		`"http_request":{"http_method":"GET","url":{"hostname":"shop.example","path":"/users/{id}"}},"http_response":{"code":200},` +
		`"src_endpoint":{"ip":"10.0.0.7","port":51234,"svc_name":"prod/frontend","instance_uid":"6f1c"},` +
		`"dst_endpoint":{"ip":"fe80::1","port":8443},"actor":{"user":{"uid":"h:9f2c"}},` +
		`"data":{"why":"basic credential in header without TLS","time":1795255200123}},` +
		`{"uid":"00c1f1","api":{"operation":"GET /users/{id}","service":{"name":"shop.example"}},` +
		`"http_request":{"http_method":"GET","url":{"hostname":"shop.example","path":"/users/{id}"}},` +
		`"actor":{"user":{"uid":"h:9f2c"}},"data":{"why":"again"}}]}` + "\n"
	if string(line) != want {
		t.Errorf("got\n%s\nwant\n%s", line, want)
	}
}

func FuzzOCSF(f *testing.F) {
	f.Add("f:1", "rule", "high", "svc", "GET", "/a", "open", "T1040", "CWE-1", "10.0.0.7", "why", uint64(3), int64(1), uint32(80), 0.5)
	f.Add("", "", "\xff", "a\nb", "\x00", "/\u2028", "closed", ".", "-", "::1%\n", "\"", uint64(0), int64(math.MinInt64), uint32(math.MaxUint32), math.Inf(1))
	f.Fuzz(func(t *testing.T, id, rule, severity, service, method, route, state, attack, cwe, address, why string, n uint64, sec int64, port uint32, c float64) {
		line, err := ocsfLine(&v1.Finding{
			Id: id, Rule: rule, Severity: severity, Service: service, Method: method, Route: route, State: state, Attack: attack, Cwe: cwe,
			Count: n, Revision: n, Confidence: c, LastSeen: &timestamppb.Timestamp{Seconds: sec, Nanos: int32(port)},
			Evidence: []*v1.Evidence{{Call: id, Why: why, StatusCode: port, Source: &v1.Peer{Address: address, Port: port}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(line), "\n") != 1 || line[len(line)-1] != '\n' || !utf8.Valid(line) || !json.Valid(line) {
			t.Fatalf("not one line of JSON: %q", line)
		}
	})
}

// What the built-in rules really find, mapped and validated.
func TestOCSFOfRealFindingsIsValid(t *testing.T) {
	validate := validator(t, "detection_finding")
	rules, err := detect.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	d, err := detect.New(rules, 100)
	if err != nil {
		t.Fatal(err)
	}
	calls, err := os.ReadFile("../detect/testdata/agent.calls.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for text := range bytes.Lines(calls) {
		call := &v1.Call{}
		if err := line.Unmarshal(text, call); err != nil {
			t.Fatal(err)
		}
		call.Service, call.Route = "shop.example", call.Path
		d.Observe(call)
	}
	if len(d.Findings()) == 0 {
		t.Fatal("no finding")
	}
	for _, f := range d.Findings() {
		out, err := ocsfLine(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(out); err != nil || !strings.Contains(string(out), `"src_endpoint":{"ip":"10.0.0.1","port":5}`) {
			t.Errorf("%v\n%s", err, out)
		}
	}
}
