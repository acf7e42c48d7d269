package detect_test

import (
	"fmt"
	"math/rand"
	"slices"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spile/spile/collector/detect"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// basic is a call that breaks credentials-over-plain-http and nothing else.
func basic(i int, second int64, route string, loopback bool) *v1.Call {
	c := &v1.Call{
		Id: fmt.Sprintf("%032x", i), Time: &timestamppb.Timestamp{Seconds: second}, Scheme: "http", Method: "GET", Path: route, Route: route,
		StatusCode: 200, Service: "s", Auth: &v1.Auth{Scheme: "basic", Location: "header"},
		Source: &v1.Peer{Address: "10.0.0.7"}, Destination: &v1.Peer{Address: "10.0.0.9"},
	}
	if loopback {
		c.Source.Address, c.Destination.Address = "127.0.0.1", "127.0.0.1"
	}
	return c
}

func one(t *testing.T, d *detect.Detector, c *v1.Call) *v1.Finding {
	t.Helper()
	got := d.Observe(c)
	if len(got) != 1 {
		t.Fatalf("%d findings changed, want 1: %v", len(got), got)
	}
	return got[0]
}

func TestFindingIsCountedAndNamesItsFirstCalls(t *testing.T) {
	d := mustDetector(t, 10)
	var first, last *v1.Finding
	var copies []proto.Message
	var handed []*v1.Finding
	for i := range 1000 {
		// Times run backwards: first and last seen go by them, evidence by order.
		last = one(t, d, basic(i, int64(2000-i), "/a", false))
		if i == 0 {
			first = last
		}
		if i < 20 {
			handed, copies = append(handed, last), append(copies, proto.Clone(last))
		}
	}
	if last.Count != 1000 || last.FirstSeen.Seconds != 1001 || last.LastSeen.Seconds != 2000 || last.Id != first.Id || last.State != "open" {
		t.Fatalf("finding after 1000 calls: %v", last)
	}
	if len(last.Evidence) != 5 || last.Evidence[4].Call != fmt.Sprintf("%032x", 4) || last.Evidence[0].Why == "" {
		t.Fatalf("evidence %v, want the first five calls", last.Evidence)
	}
	// Created, 10, 100, 1000.
	if first.Revision != 1 || last.Revision != 4 {
		t.Fatalf("revision %d then %d, want 1 then 4", first.Revision, last.Revision)
	}
	for i, f := range handed {
		if !proto.Equal(f, copies[i]) {
			t.Fatalf("finding handed out at call %d changed later: %v, was %v", i, f, copies[i])
		}
	}
	if all := d.Findings(); len(all) != 1 || !proto.Equal(all[0], last) {
		t.Fatalf("Findings() = %v", all)
	}
}

func TestRevisionRisesOnceABatch(t *testing.T) {
	d := mustDetector(t, 10)
	d.Begin()
	var f *v1.Finding
	for i := range 150 {
		f = one(t, d, basic(i, 1, "/a", true))
	}
	if f.Revision != 1 {
		t.Fatalf("revision %d at the end of the first batch, want 1", f.Revision)
	}
	d.Begin()
	if f = one(t, d, basic(200, 1, "/a", true)); f.Revision != 1 {
		t.Fatalf("revision %d though nothing happened that sinks must hear", f.Revision)
	}
	if f = one(t, d, basic(201, 1, "/a", false)); f.Revision != 2 || f.Severity != "high" || f.Scope != "" {
		t.Fatalf("call from outside: %v, want revision 2, high, no scope", f)
	}
	if f = one(t, d, basic(202, 1, "/a", true)); f.Severity != "high" || f.Scope != "" || f.Revision != 2 {
		t.Fatalf("loopback call afterwards: %v, want it unchanged", f)
	}
}

func TestLimitIsCounted(t *testing.T) {
	d, c := mustDetector(t, 3), &detect.Counters{}
	d.CountTo(c)
	for i := range 10 {
		d.Observe(basic(i, 1, fmt.Sprintf("/r%d", i), false))
	}
	if n := counts(c); len(d.Findings()) != 3 || n["overflow"] != 7 || n["matched"] != 10 || n["evaluated"] != 10 {
		t.Fatalf("%d findings, counters %v", len(d.Findings()), n)
	}
	if f := one(t, d, basic(11, 2, "/r1", false)); f.Count != 2 {
		t.Fatalf("a known finding is not counted at the limit: %v", f)
	}
}

func TestRestoreContinues(t *testing.T) {
	var calls []*v1.Call
	r := rand.New(rand.NewSource(1))
	for i := range 400 {
		calls = append(calls, basic(i, int64(r.Intn(1000)), fmt.Sprintf("/r%d", r.Intn(7)), r.Intn(3) > 0))
	}
	whole := mustDetector(t, 100)
	for _, c := range calls {
		whole.Observe(c)
	}
	for _, cut := range []int{0, 1, 9, 10, 11, 200, 399} {
		a, b := mustDetector(t, 100), mustDetector(t, 100)
		for _, c := range calls[:cut] {
			a.Observe(c)
		}
		var stored []*v1.Finding
		for _, f := range a.Findings() {
			stored = append(stored, proto.Clone(f).(*v1.Finding))
		}
		if err := b.Restore(stored); err != nil {
			t.Fatal(err)
		}
		for _, c := range calls[cut:] {
			b.Observe(c)
		}
		if !slices.EqualFunc(whole.Findings(), b.Findings(), func(x, y *v1.Finding) bool { return proto.Equal(x, y) }) {
			t.Fatalf("restored at call %d, findings differ:\n%v\n%v", cut, whole.Findings(), b.Findings())
		}
	}
}

func TestRestoreRefusesAndReopens(t *testing.T) {
	d := mustDetector(t, 10)
	if err := d.Restore([]*v1.Finding{{Rule: "x"}}); err == nil {
		t.Fatal("a finding without id was restored")
	}
	f := proto.Clone(one(t, d, basic(1, 1, "/a", false))).(*v1.Finding)
	f.State = "closed"
	e := mustDetector(t, 10)
	if err := e.Restore([]*v1.Finding{f, {Id: "f:0000000000000001", Rule: "gone", Revision: 3}}); err != nil {
		t.Fatal(err)
	}
	if f := one(t, e, basic(2, 2, "/a", false)); f.State != "open" || f.Revision != 2 || f.Count != 2 {
		t.Fatalf("closed finding that matches again: %v, want open at revision 2", f)
	}
	if len(e.Findings()) != 2 {
		t.Fatal("the finding of a rule that is gone was lost")
	}
}

func TestIDsAreStable(t *testing.T) {
	d := mustDetector(t, 10)
	// A change of this value makes every finding of every user a new one.
	if f := one(t, d, basic(1, 1, "/a", false)); f.Id != "f:fb7ab361b6ffe006" {
		t.Fatalf("id %s", f.Id)
	}
	a := one(t, d, &v1.Call{Service: "ab", Route: "c", Scheme: "http", Auth: &v1.Auth{Scheme: "basic"}})
	b := one(t, d, &v1.Call{Service: "a", Route: "bc", Scheme: "http", Auth: &v1.Auth{Scheme: "basic"}})
	if a.Id == b.Id {
		t.Fatal("parts of a key run into each other")
	}
}

func counts(c *detect.Counters) map[string]uint64 {
	m := map[string]uint64{}
	for _, n := range c.Counts() {
		m[n.Name] = n.Value
	}
	return m
}

// Many routes of one service become one finding, and leave room for the other services of the partition, after a restart as well.
func TestRoutesBeyondTheSpreadBecomeOneFinding(t *testing.T) {
	d := mustDetector(t, 2000)
	var f *v1.Finding
	for i := range 1500 {
		f = one(t, d, basic(i, 1, fmt.Sprintf("/r%d", i), false))
		if i == 1200 {
			stored := d.Findings()
			if d = mustDetector(t, 2000); d.Restore(stored) != nil {
				t.Fatal("not restored")
			}
		}
	}
	if f.Route != "*" || f.Method != "" || f.Count != 500 || len(d.Findings()) != 1001 {
		t.Fatalf("%d findings, the last is %v, want 1000 and one of 500 calls with route *", len(d.Findings()), f)
	}
	other := basic(1, 1, "/a", false)
	other.Service = "other"
	if f := one(t, d, other); f.Route != "/a" {
		t.Fatalf("another service's finding: %v", f)
	}
	if f := one(t, d, basic(7, 2, "/r7", false)); f.Route != "/r7" || f.Count != 2 {
		t.Fatalf("a known route: %v", f)
	}
}

// Partitions share compiled rules and counters, each with a goroutine of its own.
func TestDetectorsShareRules(t *testing.T) {
	rules, err := detect.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	c := &detect.Counters{}
	var running sync.WaitGroup
	for range 4 {
		d, err := detect.New(rules, 10)
		if err != nil {
			t.Fatal(err)
		}
		d.CountTo(c)
		running.Go(func() {
			for i := range 200 {
				d.Observe(basic(i, 1, "/a", i%2 == 0))
			}
		})
	}
	running.Wait()
	if n := counts(c); n["matched"] != 800 || n["errors"] != 0 {
		t.Fatalf("counters %v, want 800 matched", n)
	}
}

// A call larger than the cost limit assumes is an error that is counted, not an endless evaluation.
func TestCostLimitStopsHugeCalls(t *testing.T) {
	d := mustDetector(t, 10)
	c := &v1.Call{StatusCode: 200, Response: &v1.Content{Fields: []*v1.Field{{Path: "body.email", Class: "email"}}}}
	for range 200_000 {
		c.Response.Fields = append(c.Response.Fields, &v1.Field{Path: "body.x"})
	}
	n := &detect.Counters{}
	d.CountTo(n)
	if got := d.Observe(c); len(got) != 0 || counts(n)["errors"] != 1 || n.LastError() == nil {
		t.Fatalf("%d findings, counters %v", len(got), counts(n))
	}
}
