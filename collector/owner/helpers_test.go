package owner

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spile/spile/collector/journal"
	"github.com/spile/spile/collector/route"
	"github.com/spile/spile/proto/columns"
	v1 "github.com/spile/spile/proto/spile/v1"
)

var day = time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)

// callsOf makes the calls of record n of one service: a pure function, so that an oracle can make them again.
func callsOf(service string, n uint64, count int) []*v1.Call {
	r := rand.New(rand.NewPCG(n, uint64(len(service))))
	calls := make([]*v1.Call, count)
	for i := range calls {
		path := []string{"/users/%d", "/users/%d/orders", "/v2/items/%d", "/static/page%d.html"}[r.IntN(4)]
		calls[i] = &v1.Call{
			Id: fmt.Sprintf("%016x%016x", n, i), Time: timestamppb.New(day.Add(time.Duration(n)*time.Second + time.Duration(i)*time.Millisecond)),
			Node: "n1", Observed: v1.Observed_OBSERVED_SERVER, Protocol: "http/1.1", Scheme: "http",
			Method: []string{"GET", "POST"}[r.IntN(2)], Authority: service, Service: service,
			Path: fmt.Sprintf(path, r.IntN(1000)), StatusCode: []uint32{200, 200, 404, 500}[r.IntN(4)],
			Source: &v1.Peer{Address: fmt.Sprint("10.0.0.", r.IntN(9))}, Destination: &v1.Peer{Address: "10.0.1.1", Port: 80, Process: "nginx"},
		}
	}
	return calls
}

// coder is safe for concurrent use, as Config.Decode must be.
type coder struct {
	mu  sync.Mutex
	enc *columns.Encoder
	dec sync.Pool
}

func newCoder(t testing.TB) *coder {
	enc, err := columns.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	return &coder{enc: enc}
}

func (c *coder) decode(payload []byte) ([]*v1.Call, error) {
	d, ok := c.dec.Get().(*columns.Decoder)
	if !ok {
		var err error
		if d, err = columns.NewDecoder(); err != nil {
			return nil, err
		}
	}
	defer c.dec.Put(d)
	return d.Decode(payload)
}

func (c *coder) encode(t testing.TB, calls []*v1.Call) []byte {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	payload, err := c.enc.Encode(nil, calls)
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

func (c *coder) record(t testing.TB, agent string, seq uint64, calls []*v1.Call) journal.Record {
	t.Helper()
	return journal.Record{
		Agent: agent, Epoch: 1, Seq: seq, Payload: c.encode(t, calls), Count: uint32(len(calls)),
		Min: calls[0].Time.AsTime(), Max: calls[len(calls)-1].Time.AsTime(),
	}
}

func openJournal(t testing.TB, dir string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(context.Background(), journal.Config{Dir: dir, MaxBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

func put(t testing.TB, j *journal.Journal, service string, r journal.Record) {
	t.Helper()
	if err := j.Append(context.Background(), partitionOf(service), r); err != nil {
		t.Fatal(err)
	}
}

// partitionOf stands for intake's choice.
func partitionOf(service string) int {
	h := fnv.New32a()
	h.Write([]byte(service))
	return int(h.Sum32() % journal.Partitions)
}

// tracker is a detector whose finding counts a service's calls: it shows a call counted twice or not at all.
type tracker struct {
	perCall bool
	all     map[string]*v1.Finding
}

func (d *tracker) Restore(list []*v1.Finding) error {
	d.all = map[string]*v1.Finding{}
	for _, f := range list {
		d.all[f.GetId()] = f
	}
	return nil
}

func (d *tracker) Begin() {}

func (d *tracker) Observe(c *v1.Call) []*v1.Finding {
	id := "f:" + c.GetService()
	if d.perCall {
		id = "f:" + c.GetId()
	}
	f := &v1.Finding{Id: id, Service: c.GetService(), Count: d.all[id].GetCount() + 1, Revision: 1}
	d.all[id] = f
	return []*v1.Finding{f}
}

// running is a set of owners at work.
type running struct {
	*Owners
	stop func()
	mu   sync.Mutex
	said []error
}

func start(t testing.TB, j *journal.Journal, edit func(*Config)) *running {
	t.Helper()
	r := &running{}
	cfg := Config{
		Journal: j, Decode: newCoder(t).decode, Route: route.Template, Every: 20 * time.Millisecond,
		Detector: func() (Detector, error) { return &tracker{}, nil },
		Warn: func(_ int, err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.said = append(r.said, err)
		},
	}
	if edit != nil {
		edit(&cfg)
	}
	o, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Owners = o
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); o.Run(ctx) }()
	r.stop = func() { cancel(); <-done }
	t.Cleanup(r.stop)
	return r
}

func (r *running) warnings() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.said)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// oracle adds up calls as simply as can be.
type oracle map[string]uint64

func (o oracle) add(calls []*v1.Call) {
	for _, c := range calls {
		o[strings.Join([]string{c.Service, c.Method, route.Template(c.Path), fmt.Sprint(c.StatusCode)}, " ")]++
		o["finding "+c.Service]++
	}
}

func (o oracle) calls() (n uint64) {
	for k, v := range o {
		if strings.HasPrefix(k, "finding ") {
			n += v
		}
	}
	return n
}

// tables are the owners' endpoints and findings in the oracle's form.
func tables(endpoints []*v1.Endpoint, findings []*v1.Finding) oracle {
	o := oracle{}
	for _, e := range endpoints {
		for status, n := range e.Statuses {
			o[strings.Join([]string{e.Service, e.Method, e.Route, status}, " ")] += n
		}
	}
	for _, f := range findings {
		o["finding "+f.Service] += f.Count
	}
	return o
}

func (o oracle) check(t testing.TB, got oracle) {
	t.Helper()
	if maps.Equal(o, got) {
		return
	}
	for k := range got {
		if got[k] != o[k] {
			t.Errorf("%s: %d, want %d", k, got[k], o[k])
		}
	}
	for k := range o {
		if _, ok := got[k]; !ok {
			t.Errorf("%s: missing, want %d", k, o[k])
		}
	}
}

// stored is what a new owner would find.
func stored(t testing.TB, j *journal.Journal) oracle {
	t.Helper()
	r := start(t, j, func(c *Config) { c.Decode = func([]byte) ([]*v1.Call, error) { return nil, errors.New("not now") } })
	eventually(t, "loaded", r.Ready)
	got := tables(r.Endpoints(""), r.Findings())
	r.stop()
	return got
}
