package inventory

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

var start = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// call is a plain server-side sighting, changed by edits.
func call(method, route string, status uint32, edits ...func(*v1.Call)) *v1.Call {
	c := &v1.Call{
		Time: timestamppb.New(start), Observed: v1.Observed_OBSERVED_SERVER, Protocol: "http/1.1", Scheme: "https",
		Method: method, Route: route, StatusCode: status, Service: "shop.example",
		Source: &v1.Peer{Address: "10.0.0.7"}, Destination: &v1.Peer{Process: "nginx"},
	}
	for _, e := range edits {
		e(c)
	}
	return c
}

func observe(v *Inventory, calls ...*v1.Call) {
	for _, c := range calls {
		v.Observe(c)
	}
}

func one(t *testing.T, v *Inventory) *v1.Endpoint {
	t.Helper()
	list := v.Endpoints("", true)
	if len(list) != 1 {
		t.Fatalf("%d endpoints, want 1: %v", len(list), list)
	}
	return list[0]
}

func same(t *testing.T, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", protojson.Format(got), protojson.Format(want))
	}
}

func TestAnEndpointAddsUp(t *testing.T) {
	v := New(DefaultLimits())
	late := start.Add(time.Hour)
	observe(v,
		call("GET", "/v2/users/{id}", 200, func(c *v1.Call) {
			c.Auth = &v1.Auth{Scheme: "bearer"}
			c.Source = &v1.Peer{Address: "10.0.0.7", Process: "curl", Workload: "prod/frontend"}
			c.Response = &v1.Content{Fields: []*v1.Field{{Path: "body.email", Class: "email"}, {Path: "body.id"}}}
		}),
		call("GET", "/v2/users/{id}", 404, func(c *v1.Call) {
			c.Protocol, c.Scheme = "http/2", "http"
			c.Time = timestamppb.New(late)
			c.Source.Process = "curl"
			c.Request = &v1.Content{Fields: []*v1.Field{{Path: "query.card", Class: "card"}}}
		}),
		call("GET", "/v2/users/{id}", 200),
	)
	got := one(t, v)
	want := &v1.Endpoint{
		Id: got.Id, Service: "shop.example", Protocol: "http/2", Method: "GET", Route: "/v2/users/{id}", Version: "v2", State: "active",
		Calls: 3, Statuses: map[string]uint64{"200": 2, "404": 1}, Auth: map[string]uint64{"bearer": 1, "none": 2},
		Schemes: map[string]uint64{"https": 2, "http": 1}, DataClasses: []string{"card", "email"},
		Callers:   []string{"10.0.0.7", "curl", "prod/frontend"},
		FirstSeen: timestamppb.New(start), LastSeen: timestamppb.New(late),
	}
	same(t, got, want)
	// The id is in findings and in other people's systems: it must never change.
	if got.Id != "e:bc246f03afac45c2" {
		t.Errorf("id %s", got.Id)
	}
	same(t, v.Services()[0], &v1.Service{
		Name: "shop.example", Calls: 3, Endpoints: 1, Protocols: []string{"http/1.1", "http/2"}, DataClasses: []string{"card", "email"},
		FirstSeen: want.FirstSeen, LastSeen: want.LastSeen, Processes: []string{"nginx"},
	})
}

func TestProtocolIsNoPartOfAnEndpoint(t *testing.T) {
	v := New(DefaultLimits())
	grpc := func(c *v1.Call) {
		c.Protocol = "http/2"
		c.Request = &v1.Content{ContentType: proto.String("application/grpc+proto")}
	}
	observe(v, call("POST", "/p.S/M", 200, grpc), call("POST", "/p.S/M", 200), call("POST", "/p.S/M", 200, grpc))
	if e := one(t, v); e.Protocol != "grpc" || e.Calls != 3 {
		t.Error(e)
	}
}

func TestOnlyAnAnswerMakesAnEndpointActive(t *testing.T) {
	for status, active := range map[uint32]bool{0: false, 400: false, 404: false, 405: false, 410: false, 501: false,
		200: true, 204: true, 301: true, 401: true, 403: true, 422: true, 429: true, 500: true, 503: true} {
		v := New(DefaultLimits())
		observe(v, call("GET", "/x", 404), call("GET", "/x", status), call("GET", "/x", 404))
		if e := one(t, v); (e.State == "active") != active || e.Calls != 3 {
			t.Errorf("after %d: %v", status, e)
		}
		if n := len(v.Endpoints("shop.example", false)); (n == 1) != active {
			t.Errorf("after %d: %d shown", status, n)
		}
		if s := v.Services()[0]; (s.Endpoints == 1) != active {
			t.Errorf("after %d: service has %d endpoints", status, s.Endpoints)
		}
	}
}

func TestWhoSawACallDecidesWhetherItCounts(t *testing.T) {
	const client, server, both = v1.Observed_OBSERVED_CLIENT, v1.Observed_OBSERVED_SERVER, v1.Observed_OBSERVED_BOTH
	for _, c := range []struct {
		observed      v1.Observed
		process       string
		calls, client uint64
	}{{server, "nginx", 1, 0}, {server, "", 1, 0}, {both, "nginx", 1, 0}, {client, "nginx", 0, 1}, {client, "", 1, 1}, {0, "", 1, 0}} {
		v := New(DefaultLimits())
		observe(v, call("GET", "/x", 200, func(k *v1.Call) { k.Observed, k.Destination.Process = c.observed, c.process }))
		e, s := one(t, v), v.Services()[0]
		if e.Calls != c.calls || e.ClientCalls != c.client || s.Calls != c.calls || s.ClientCalls != c.client {
			t.Errorf("%v of %q: endpoint %v, service %v", c.observed, c.process, e, s)
		}
		if e.Statuses["200"] != c.calls || e.Auth["none"] != c.calls || e.Schemes["https"] != c.calls || e.State != "active" || len(e.Callers) != 1 {
			t.Errorf("%v of %q: %v", c.observed, c.process, e)
		}
	}
}

func TestWhatHasNoRoomIsUnmatched(t *testing.T) {
	v := New(Limits{Services: 4, Endpoints: 20, PerService: 10, Candidates: 3})
	for i := range 50 {
		v.Observe(call("GET", fmt.Sprint("/probe", i), 404))
	}
	v.Observe(call("GET", "/probe0", 404))
	if s := v.Services()[0]; s.Calls != 51 || s.Unmatched != 47 || s.Endpoints != 0 || len(v.Endpoints("", true)) != 3 {
		t.Fatalf("after a scan: %v", s)
	}
	for i := range 50 {
		v.Observe(call("GET", fmt.Sprint("/real", i), 200))
	}
	if s := v.Services()[0]; s.Calls != 101 || s.Unmatched != 47+43 || s.Endpoints != 7 {
		t.Fatalf("after real calls: %v", s)
	}
	on := func(name string) func(*v1.Call) { return func(c *v1.Call) { c.Service = name } }
	for i := range 9 {
		v.Observe(call("GET", "/", 404, on(fmt.Sprint("made-up-", i))))
	}
	for i := range 9 {
		v.Observe(call("GET", "/", 200, on(fmt.Sprint("real-", i))))
	}
	v.Observe(call("GET", "/", 200, on("")))
	var list []string
	var calls, unmatched uint64
	for _, s := range v.Services() {
		list = append(list, fmt.Sprint(s.Name, ":", s.Calls, "/", s.Unmatched))
		calls, unmatched = calls+s.Calls, unmatched+s.Unmatched
	}
	if got := strings.Join(list, " "); got != "*:16/16 made-up-0:1/0 made-up-1:1/0 shop.example:101/90" && got != "*:17/17 made-up-0:1/0 made-up-1:1/0 shop.example:101/90" {
		t.Errorf("services: %s", got)
	}
	for _, e := range v.Endpoints("", true) {
		calls -= e.Calls
	}
	if calls != unmatched {
		t.Errorf("%d calls in services and not in endpoints, %d unmatched", calls, unmatched)
	}
}

func TestSetsOfNamesAreBounded(t *testing.T) {
	v := New(DefaultLimits())
	for i := range 200 {
		v.Observe(call(strings.Repeat("M", 33+i), "/x", uint32(100+i), func(c *v1.Call) {
			c.Source.Address, c.Scheme = fmt.Sprint("10.0.0.", i), fmt.Sprint("s", i)
			c.Auth = &v1.Auth{Scheme: fmt.Sprint("a", i)}
			c.Response = &v1.Content{Fields: []*v1.Field{{Class: fmt.Sprint("c", i)}}}
			c.Protocol, c.Destination.Process = fmt.Sprint("p", i), fmt.Sprint("n", i)
		}))
	}
	e, s := one(t, v), v.Services()[0]
	if e.Method != "_OTHER" || len(e.Callers) != 64 || len(e.DataClasses) != 32 || len(s.Processes) != 16 || len(s.Protocols) != 8 {
		t.Errorf("%v %v", e, s)
	}
	for name, m := range map[string]map[string]uint64{"statuses": e.Statuses, "auth": e.Auth, "schemes": e.Schemes} {
		var sum uint64
		for _, n := range m {
			sum += n
		}
		if sum != 200 || len(m) > 65 || m["*"] == 0 {
			t.Errorf("%s: %d calls in %d names", name, sum, len(m))
		}
	}
}

func TestVersions(t *testing.T) {
	for route, want := range map[string]string{"/v2/users": "v2", "/api/V1beta1/x": "v1beta1", "/v1.2/x": "v1.2", "/v1/x/v2": "v1",
		"/users": "", "/video": "", "/v": "", "/vv1": "", "/v1x": "", "/": ""} {
		if got := versionOf(route); got != want {
			t.Errorf("version of %s is %q, want %q", route, got, want)
		}
	}
}

// random makes calls over a few services and routes, some of which are probes.
func random(r *rand.Rand, n int) []*v1.Call {
	list := make([]*v1.Call, n)
	for i := range list {
		list[i] = call([]string{"GET", "POST"}[r.IntN(2)], fmt.Sprint("/r", r.IntN(60)), []uint32{200, 404, 404, 500}[r.IntN(4)], func(c *v1.Call) {
			c.Service = fmt.Sprint("s", r.IntN(5))
			c.Time = timestamppb.New(start.Add(time.Duration(r.IntN(1e6)) * time.Millisecond))
			c.Observed = v1.Observed(r.IntN(4))
			c.Source.Address = fmt.Sprint("10.0.0.", r.IntN(200))
			c.Scheme = []string{"http", "https"}[r.IntN(2)]
			for _, p := range []*v1.Peer{c.Source, c.Destination} {
				if r.IntN(3) > 0 {
					p.Coverage = proto.Float64(float64(r.IntN(1001)) / 1000)
				}
			}
			if r.IntN(3) == 0 {
				c.Destination.Process = ""
			}
		})
	}
	return list
}

func TestCountsEqualAnOracle(t *testing.T) {
	v := New(DefaultLimits())
	calls := random(rand.New(rand.NewPCG(1, 2)), 20_000)
	type row struct{ service, method, route, status string }
	want := map[row]uint64{}
	for _, c := range calls {
		v.Observe(c)
		if c.Observed != v1.Observed_OBSERVED_CLIENT || c.Destination.Process == "" {
			want[row{c.Service, c.Method, c.Route, strconv.Itoa(int(c.StatusCode))}]++
		}
	}
	n := 0
	for _, e := range v.Endpoints("", true) {
		for status, got := range e.Statuses {
			if w := want[row{e.Service, e.Method, e.Route, status}]; got != w {
				t.Errorf("%s %s %s %s: %d, want %d", e.Service, e.Method, e.Route, status, got, w)
			}
			n++
		}
	}
	if n != len(want) {
		t.Errorf("%d rows, want %d", n, len(want))
	}
}

func TestRestoredAtAnyPointItIsTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	limits := Limits{Services: 4, Endpoints: 200, PerService: 80, Candidates: 10}
	plain, stored := New(limits), map[string][]byte{}
	cut := New(limits)
	for range 20 {
		for _, c := range random(r, r.IntN(500)) {
			if a, b := plain.Observe(c), cut.Observe(c); a != b {
				t.Fatalf("endpoint %q, after restoring %q", a, b)
			}
		}
		dirty := cut.Dirty()
		list, err := cut.Flush()
		if err != nil || len(list) != dirty || cut.Dirty() != 0 {
			t.Fatalf("%d buckets of %d, %v", len(list), dirty, err)
		}
		for _, b := range list {
			stored[b.Key] = b.Value
		}
		cut = restored(t, limits, stored)
		compare(t, cut, plain)
	}
	all, err := plain.Flush()
	if err != nil || len(all) != len(stored) {
		t.Fatalf("%d buckets, stored %d, %v", len(all), len(stored), err)
	}
	for _, b := range all {
		if !slices.Equal(stored[b.Key], b.Value) {
			t.Errorf("bucket %s differs", b.Key)
		}
	}
}

func restored(t *testing.T, limits Limits, stored map[string][]byte) *Inventory {
	t.Helper()
	v := New(limits)
	var list []Bucket
	for k, b := range stored {
		list = append(list, Bucket{k, b})
	}
	if err := v.Restore(list); err != nil {
		t.Fatal(err)
	}
	return v
}

func compare(t *testing.T, got, want *Inventory) {
	t.Helper()
	same(t, &v1.ListServicesResponse{Services: got.Services()}, &v1.ListServicesResponse{Services: want.Services()})
	same(t, &v1.ListEndpointsResponse{Endpoints: got.Endpoints("", true)}, &v1.ListEndpointsResponse{Endpoints: want.Endpoints("", true)})
}

func TestDamagedBucketsAreRefused(t *testing.T) {
	v := New(DefaultLimits())
	v.Observe(call("GET", "/x", 200))
	list, err := v.Flush()
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	ep, sv := list[0], list[1]
	for name, bad := range map[string][]Bucket{
		"no service":  {ep},
		"twice":       {ep, sv, {"ep.1", ep.Value}},
		"sv twice":    {sv, {"sv.1", sv.Value}},
		"no protobuf": {sv, {"ep.0", []byte("\xff\xff")}},
		"no number":   {{"sv.x", sv.Value}},
	} {
		if err := New(DefaultLimits()).Restore(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := v.Restore(nil); err == nil {
		t.Error("restored into one that is in use")
	}
}

func TestReadersSeeRowsThatNobodyChanges(t *testing.T) {
	v := New(DefaultLimits())
	calls := random(rand.New(rand.NewPCG(5, 6)), 5_000)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				list := v.Endpoints("", true)
				v.Services()
				v.Counts()
				for _, e := range list {
					var sum uint64
					for _, n := range e.Statuses {
						sum += n
					}
					if sum != e.Calls {
						t.Errorf("%s: statuses add up to %d of %d calls", e.Id, sum, e.Calls)
						return
					}
				}
				if !slices.IsSortedFunc(list, func(a, b *v1.Endpoint) int {
					return strings.Compare(a.Service+"\x00"+a.Route+"\x00"+a.Method, b.Service+"\x00"+b.Route+"\x00"+b.Method)
				}) {
					t.Error("not sorted")
					return
				}
			}
		})
	}
	observe(v, calls...)
	close(done)
	wg.Wait()
}

func BenchmarkObserve(b *testing.B) {
	v := New(DefaultLimits())
	calls := random(rand.New(rand.NewPCG(7, 8)), 10_000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		v.Observe(calls[i%len(calls)])
	}
}
