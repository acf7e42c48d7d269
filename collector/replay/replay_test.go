package replay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/spile/spile/collector/detect"
	"github.com/spile/spile/collector/replay"
	"github.com/spile/spile/collector/route"
	"github.com/spile/spile/proto/line"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// ledger is an inventory that notes the order in which it saw calls and names endpoints by how many calls it saw.
type ledger struct {
	seen  []string
	calls map[[2]string]uint64
}

func (l *ledger) Observe(c *v1.Call) {
	l.seen = append(l.seen, c.Path)
	l.calls[[2]string{c.Service, c.Route}]++
}

func (l *ledger) Services() []*v1.Service {
	var s []*v1.Service
	known := map[string]bool{}
	for k := range l.calls { // in no order, as maps are
		if !known[k[0]] {
			known[k[0]] = true
			s = append(s, &v1.Service{Name: k[0]})
		}
	}
	return s
}

func (l *ledger) Endpoints(service string, candidates bool) []*v1.Endpoint {
	if candidates {
		panic("replay asked for candidates")
	}
	var e []*v1.Endpoint
	for k, n := range l.calls {
		if k[0] == service {
			e = append(e, &v1.Endpoint{Service: service, Route: k[1], Calls: n})
		}
	}
	return e
}

func pipeline(t testing.TB) (replay.Pipeline, *ledger) {
	t.Helper()
	rules, err := detect.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	return pipelineWith(t, rules)
}

func pipelineWith(t testing.TB, rules *detect.Rules) (replay.Pipeline, *ledger) {
	t.Helper()
	d, err := detect.New(rules, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	l := &ledger{calls: map[[2]string]uint64{}}
	return replay.Pipeline{
		Service:   func(c *v1.Call) string { return "of " + c.GetAuthority() },
		Route:     func(c *v1.Call) string { return route.Template(c.GetPath()) },
		Inventory: l, Detector: d,
	}, l
}

func inputs(texts ...string) (in []replay.Input) {
	for i, t := range texts {
		in = append(in, replay.Input{Name: fmt.Sprintf("%c.jsonl", 'a'+i), Reader: strings.NewReader(t)})
	}
	return in
}

const (
	late  = `{"time":"2026-01-01T00:00:02Z","protocol":"http/1.1","method":"GET","authority":"shop","path":"/users/7","status_code":200,"scheme":"http","auth":{"scheme":"basic"},"unknown":[1]}` + "\n"
	early = `{"id":"0123456789abcdef0123456789abcdef","time":"2026-01-01T00:00:01Z","protocol":"http/1.1","method":"GET","authority":"shop","path":"/users/8","status_code":200,"scheme":"http","auth":{"scheme":"basic"},"route":"/stale","service":"own"}` + "\r\n"
)

func TestRunGoesByTimeAndKeepsInputOrder(t *testing.T) {
	p, l := pipeline(t)
	r, err := replay.Run(t.Context(), inputs("\xef\xbb\xbf"+late+"\n  \n", early+strings.TrimSpace(late)), p)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(l.seen); got != "[/users/8 /users/7 /users/7]" {
		t.Errorf("inventory saw %s", got)
	}
	got := ""
	for _, c := range r.Calls {
		got += c.Path + " " + c.Route + " " + c.Service + "; "
	}
	if got != "/users/7 /users/{id} of shop; /users/8 /users/{id} own; /users/7 /users/{id} of shop; " {
		t.Errorf("calls %s", got)
	}
	if id := r.Calls[0].Id; len(id) != 32 || id == r.Calls[2].Id || r.Calls[1].Id != "0123456789abcdef0123456789abcdef" {
		t.Errorf("ids %s, %s, %s", r.Calls[0].Id, r.Calls[1].Id, r.Calls[2].Id)
	}
	if len(r.Endpoints) != 2 || r.Endpoints[0].Service != "of shop" || r.Endpoints[0].Calls != 2 || len(r.Findings) != 2 {
		t.Errorf("endpoints %v, findings %v", r.Endpoints, r.Findings)
	}
	if e := r.Findings[0].Evidence; e[0].Call != r.Calls[0].Id && e[0].Call != r.Calls[1].Id {
		t.Errorf("evidence names %s, no call of the input", e[0].Call)
	}
}

func TestRunIsDeterministic(t *testing.T) {
	text := generated(3000)
	run := func() string {
		p, _ := pipeline(t)
		r, err := replay.Run(t.Context(), inputs(text), p)
		if err != nil {
			t.Fatal(err)
		}
		var out []byte
		for _, m := range messages(r) {
			out = append(line.Append(out, m), '\n')
		}
		return string(out)
	}
	want := run()
	if strings.Count(want, `"rule"`) == 0 {
		t.Fatal("no finding in the generated calls")
	}
	for range 3 {
		if run() != want {
			t.Fatal("the same input gave another output")
		}
	}
}

func messages(r *replay.Result) (all []proto.Message) {
	for _, c := range r.Calls {
		all = append(all, c)
	}
	for _, e := range r.Endpoints {
		all = append(all, e)
	}
	for _, f := range r.Findings {
		all = append(all, f)
	}
	return all
}

// generated makes n calls whose times are out of order and often equal.
func generated(n int) string {
	r := rand.New(rand.NewSource(1))
	var b strings.Builder
	for range n {
		fmt.Fprintf(&b, `{"time":"2026-01-01T00:%02d:%02dZ","protocol":"http/1.1","scheme":"%s","method":"GET","authority":"shop%d.example","path":"/users/%d/orders","status_code":200,"auth":{"scheme":"bearer","location":"header"},"source":{"address":"10.0.0.%d"},"response":{"content_type":"application/json","shape":"h:0b1d","fields":[{"path":"body[].id","type":"integer"},{"path":"body[].email","type":"string","class":"email","count":3}]}}`+"\n",
			r.Intn(60), r.Intn(60), []string{"http", "https"}[r.Intn(2)], r.Intn(5), r.Intn(1000), r.Intn(200))
	}
	return b.String()
}

func TestRunRefuses(t *testing.T) {
	cut := func(s string) string { return strings.Replace(late, s, "", 1) }
	for name, c := range map[string]struct{ text, want string }{
		"not JSON":       {late + "{\n", "a.jsonl line 2"},
		"an array":       {"[]\n", "a.jsonl line 1"},
		"no time":        {cut(`"time":"2026-01-01T00:00:02Z",`), "no time"},
		"no method":      {late + "\n" + cut(`"method":"GET",`), "line 3: bad input: the call has no method"},
		"no path":        {cut(`"path":"/users/7",`), "no path"},
		"no status":      {cut(`"status_code":200,`), "no status_code"},
		"coverage":       {strings.Replace(late, `{`, `{"destination":{"coverage":1.01},`, 1), "no coverage from 0 to 1"},
		"coverage < 0":   {strings.Replace(late, `{`, `{"source":{"coverage":-0.5},`, 1), "no coverage from 0 to 1"},
		"too long":       {late + `{"x":"` + strings.Repeat("x", replay.MaxLineBytes) + "\"}\n", "line 2: bad input: longer than 1048576 bytes"},
		"too long, torn": {strings.Repeat("x", 3<<20), "line 1: bad input: longer than 1048576 bytes"},
		"second file":    {late, "b.jsonl line 1"},
	} {
		p, _ := pipeline(t)
		_, err := replay.Run(t.Context(), inputs(c.text, "no call"), p)
		if !errors.Is(err, replay.ErrInput) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want ErrInput with %q", name, err, c.want)
		}
	}
	p, _ := pipeline(t)
	p.MaxCalls = 2
	if _, err := replay.Run(t.Context(), inputs(late+early), p); err != nil {
		t.Errorf("as many calls as allowed: %v", err)
	}
	if _, err := replay.Run(t.Context(), inputs(late+early, late), p); !errors.Is(err, replay.ErrInput) || !strings.Contains(err.Error(), "more than 2 calls") {
		t.Errorf("too many calls: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := replay.Run(ctx, inputs(late), p); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	broken := errors.New("disk is gone")
	in := []replay.Input{{Name: "x", Reader: io.MultiReader(strings.NewReader(late), failing{broken})}}
	if _, err := replay.Run(t.Context(), in, p); !errors.Is(err, broken) || !strings.Contains(err.Error(), "read x after line 1") {
		t.Errorf("broken reader: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestLineOfExactlyTheLimit(t *testing.T) {
	pad := replay.MaxLineBytes - len(strings.TrimSpace(late)) - len(`,"x":""`)
	text := strings.Replace(late, `,"unknown"`, `,"x":"`+strings.Repeat("x", pad)+`","unknown"`, 1)
	p, _ := pipeline(t)
	if _, err := replay.Run(t.Context(), inputs(text), p); err != nil {
		t.Fatal(err)
	}
	if _, err := replay.Run(t.Context(), inputs(strings.Replace(text, "xx", "xxx", 1)), p); !errors.Is(err, replay.ErrInput) {
		t.Fatalf("one byte more: %v", err)
	}
}

func FuzzRun(f *testing.F) {
	f.Add(late + early)
	f.Add("{}\n[]\n\xff\x00{\"time\":\"9999-12-31T23:59:59.999999999Z\"}")
	f.Add(`{"time":"0001-01-01T00:00:00Z","method":"G","path":"//","status_code":4294967295,"source":{"address":"::"}}`)
	rules, err := detect.Builtin()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, _ := pipelineWith(t, rules)
		r, err := replay.Run(t.Context(), inputs(text), p)
		if (r == nil) == (err == nil) {
			t.Fatalf("result %v with error %v", r, err)
		}
		if err == nil && len(r.Calls) > strings.Count(text, "\n")+1 {
			t.Fatalf("%d calls of %d lines", len(r.Calls), strings.Count(text, "\n")+1)
		}
	})
}

// One operation is 200,000 lines.
func BenchmarkRun(b *testing.B) {
	text := generated(200_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		p, _ := pipeline(b)
		r, err := replay.Run(b.Context(), inputs(text), p)
		if err != nil || len(r.Calls) != 200_000 {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/200_000, "ns/call")
}
