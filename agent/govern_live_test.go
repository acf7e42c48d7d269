package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spile/spile/agent/flow"
	"github.com/spile/spile/agent/govern"
	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/agent/probe"
	"github.com/spile/spile/agent/source"
	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// stage is a running tap on nginx alone, and a governor whose clock and processor time the test decides on.
type stage struct {
	t   *testing.T
	tap *tap
	*governor
	now   time.Duration
	used  time.Duration
	times int // as dear as they are
	mu    sync.Mutex
	calls []*v1.Call
	told  flow.Told
}

func onStage(t *testing.T) *stage {
	t.Helper()
	spec, err := target.ParseSpec([]string{"netns=self", "exe=*/nginx"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	w := &stage{t: t, now: source.SinceBoot()}
	if w.tap, err = openTap(ctx, config{ringBytes: 16 << 20, message: 64 << 10, data: t.TempDir()}, spec, nil, log); err != nil {
		t.Fatal(err)
	}
	w.eventually("nginx is probed", func() bool {
		list := w.tap.probes.List()
		return len(list) > 0 && !slices.ContainsFunc(list, func(s probe.State) bool { return s.Phase != probe.Attached })
	})
	w.governor = newGovernor(govern.Budget{Agent: 1, Probes: 1}, w.tap.objects, dearer{w.tap.probes, &w.times}, log)
	w.names, w.cpu = w.tap.fileNames, func() time.Duration { return w.used }
	line := newPipeline(pipelineConfig{
		key: replayKey(), node: "n1", boot: "b", owner: w.tap.owner, mute: w.tap.mute, coverage: w.tap.account.table,
		emit: func(c *v1.Call) {
			w.mu.Lock()
			w.calls = append(w.calls, c)
			w.mu.Unlock()
		},
	})
	line.flow = flow.New(flow.Config{Limits: parse.DefaultLimits(), Emit: line.exchange, Settled: func(s *flow.Stream, told flow.Told) {
		line.settled(s, told)
		w.mu.Lock()
		w.told = add(w.told, told)
		w.mu.Unlock()
	}})
	ended := make(chan error, 1)
	go func() { ended <- w.tap.ring.Run(ctx, line.chunk, w.tap.process, line.tick) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		w.tap.close()
	})
	w.turn(w.now)
	return w
}

func (w *stage) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.t.Fatalf("not within 15 s: %s; %d calls, %+v, probes %+v", what, len(w.calls), w.told, w.tap.probes.List())
		}
	}
}

// pass lets seconds pass for the governor, in which the agent uses so many cores.
func (w *stage) pass(seconds int, cores float64) {
	for range seconds {
		w.now += time.Second
		w.used += time.Duration(cores * 1e9)
		w.arrived = []govern.Share{{Cgroup: 1, Events: 100_000}, {Cgroup: 2, Events: 100_000}}
		w.turn(w.now)
	}
}

// is checks the stage that the governor tells.
func (w *stage) is(want string) {
	w.t.Helper()
	if got := w.account(0); got.Stage != want {
		w.t.Fatalf("the stage is %v, want %s", got, want)
	}
}

// dearer makes probes look dear.
type dearer struct {
	*probe.Registry
	times *int
}

func (d dearer) Costs(ns func(target.Class, bool) float64) ([]probe.Cost, error) {
	list, err := d.Registry.Costs(ns)
	for i := range list {
		list[i].Cost *= time.Duration(*d.times)
	}
	return list, err
}

// sampled is how many heads of messages the kernel did not look at.
func (w *stage) sampled() (heads uint64) {
	w.t.Helper()
	losses, err := w.tap.objects.CgroupLosses()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, l := range losses {
		if l.Reason == "sampled" {
			heads += l.Heads
		} else if l.Heads > 0 {
			w.t.Errorf("lost: %+v", l)
		}
	}
	return heads
}

// talk has connections with requests each, and returns the calls that came of them. unseen requests are those of
// connections that are not looked at.
func (w *stage) talk(protocol, address string, connections, requests int) (calls []*v1.Call, unseen uint64) {
	w.t.Helper()
	w.mu.Lock()
	w.calls, w.told = nil, flow.Told{}
	w.mu.Unlock()
	before := w.sampled()
	var group sync.WaitGroup
	for range connections {
		group.Go(func() {
			if _, err := talk(protocol, address, requests); err != nil {
				w.t.Errorf("%s: %v", protocol, err)
			}
		})
	}
	group.Wait()
	perCall := uint64(2)
	if strings.HasPrefix(protocol, "h2") {
		perCall = 1 // the kernel counts the requests alone
	}
	sent := uint64(connections * requests)
	w.eventually(fmt.Sprintf("%s: each of %d calls is accounted for", protocol, sent), func() bool {
		unseen = (w.sampled() - before) / perCall
		w.mu.Lock()
		defer w.mu.Unlock()
		return sumOf(w.told)+unseen == sent && uint64(len(w.calls)) == w.told.Calls
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.told.Lost+w.told.Unanswered > 0 {
		w.t.Errorf("%s: %+v, %d unseen", protocol, w.told, unseen)
	}
	return slices.Clone(w.calls), unseen
}

// TestStagesOfTheGovernor reaches and leaves each stage on a real kernel, with connections of each protocol in each: every
// call is seen, without what the stage leaves out, or counted as not looked at.
func TestStagesOfTheGovernor(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root: it loads eBPF programs and makes network namespaces")
	}
	startServers(t)
	w := onStage(t)
	protocols := []struct{ protocol, address string }{{"h1", "127.0.0.1:8080"}, {"h2", "127.0.0.1:8081"}, {"h1s", "127.0.0.1:8443"}, {"h2s", "127.0.0.1:8443"}}
	const connections, requests = 16, 8
	check := func(stage string, shed bool, oneIn int) {
		t.Helper()
		w.is(stage)
		for _, p := range protocols {
			calls, unseen := w.talk(p.protocol, p.address, connections, requests)
			if oneIn == 1 && (unseen != 0 || len(calls) != connections*requests) || oneIn > 1 && (unseen == 0 || len(calls) == 0 && oneIn < 4) {
				t.Errorf("%s at %s: %d calls, %d not looked at", p.protocol, stage, len(calls), unseen)
			}
			for _, c := range calls {
				if got := slices.Contains(c.Coverage, "response_shed"); got != shed || (c.StatusCode == 200) == shed || !strings.HasPrefix(c.Path, "/users/") {
					t.Fatalf("%s at %s: %v", p.protocol, stage, c)
				}
			}
			t.Logf("%-12s %-3s %3d calls, %3d not looked at", stage, p.protocol, len(calls), unseen)
		}
	}
	check("full", false, 1)
	w.pass(10, 3)
	check("no_bodies", false, 1)
	w.bodies("no_bodies", 20000, true)
	w.pass(10, 3)
	check("no_responses", true, 1)
	w.pass(10, 3)
	check("sampled", true, 2)
	w.pass(10, 3)
	check("sampled", true, 4)
	w.pass(70, 0)
	check("sampled", true, 2)
	w.pass(70, 0)
	check("no_responses", true, 1)
	w.pass(70, 0)
	check("no_bodies", false, 1)
	w.pass(70, 0)
	check("full", false, 1)
	w.bodies("full", 20000, false)
}

// bodies sends one large body, and looks how much of it was read.
func (w *stage) bodies(stage string, size int, cut bool) {
	w.t.Helper()
	w.mu.Lock()
	w.calls = nil
	w.mu.Unlock()
	conn, err := net.Dial("tcp", "127.0.0.1:8080")
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	body := `{"email":"a@b.example","filler":"` + strings.Repeat("f", size) + `","late":true}`
	if _, err := fmt.Fprintf(conn, "POST /users/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("the call", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.calls) == 1
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.calls[0]
	late := slices.ContainsFunc(c.Request.Fields, func(f *v1.Field) bool { return f.Path == "body.late" })
	if c.Request.GetBytes() != uint64(len(body)) || late == cut || slices.Contains(c.Coverage, "truncated") != cut || c.StatusCode != 200 {
		w.t.Errorf("%s: %v", stage, c)
	}
}

// TestStagesInTheMiddleOfConnections changes the policy while requests are under way: not one of them is unaccounted for.
func TestStagesInTheMiddleOfConnections(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root: it loads eBPF programs and makes network namespaces")
	}
	startServers(t)
	w := onStage(t)
	for _, p := range []struct{ protocol, address string }{{"h1", "127.0.0.1:8080"}, {"h2", "127.0.0.1:8081"}, {"h1s", "127.0.0.1:8443"}, {"h2s", "127.0.0.1:8443"}} {
		const connections, requests = 12, 120
		var group sync.WaitGroup
		stop := make(chan struct{})
		group.Go(func() { // all stages but sampling, which ends what it begins
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
				shed := []bpf.Shed{{}, {Bodies: true}, {Bodies: true, Responses: true}, {Responses: true}}[i%4]
				if err := w.tap.objects.SetShed(shed, nil); err != nil {
					t.Error(err)
				}
			}
		})
		calls, _ := w.talk(p.protocol, p.address, connections, requests)
		close(stop)
		group.Wait()
		shed := 0
		for _, c := range calls {
			if slices.Contains(c.Coverage, "response_shed") {
				shed++
			}
		}
		if shed == 0 || shed == len(calls) {
			t.Errorf("%s: %d of %d calls without their response show nothing", p.protocol, shed, len(calls))
		}
		t.Logf("%s: %d of %d calls without their response", p.protocol, shed, len(calls))
	}
}

// TestSamplingBeginsInTheMiddle: what is open when a connection is given up is unanswered for the agent, one call for each
// request that was under way, and all that follows is counted as not looked at.
func TestSamplingBeginsInTheMiddle(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root: it loads eBPF programs and makes network namespaces")
	}
	startServers(t)
	w := onStage(t)
	const connections, requests = 16, 60
	before := w.sampled()
	var group sync.WaitGroup
	for range connections {
		group.Go(func() {
			if _, err := talk("h1s", "127.0.0.1:8443", requests); err != nil {
				t.Errorf("%v", err)
			}
		})
	}
	time.Sleep(150 * time.Millisecond)
	w.pass(40, 3)
	w.is("sampled")
	group.Wait()
	const sent = connections * requests
	var requestsUnseen, open uint64
	w.eventually("each call is accounted for", func() bool {
		heads := w.sampled() - before
		w.mu.Lock()
		defer w.mu.Unlock()
		open = w.told.Lost + w.told.Unanswered
		requestsUnseen = (heads - min(heads, open)) / 2 // of an open call only the response was not looked at
		return sumOf(w.told)+requestsUnseen == sent
	})
	if requestsUnseen == 0 || open > connections {
		t.Errorf("%d not looked at, %d open", requestsUnseen, open)
	}
	t.Logf("%+v, %d not looked at", w.told, requestsUnseen)
}

// TestTheDearestFileIsDetached, and attached again when there is room.
func TestTheDearestFileIsDetached(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root: it loads eBPF programs and makes network namespaces")
	}
	startServers(t)
	w := onStage(t)
	w.ns, w.times = w.tap.gates.hitNs, 1_000_000
	if calls, _ := w.talk("h1s", "127.0.0.1:8443", 4, 10); len(calls) != 40 {
		t.Fatalf("%d calls", len(calls))
	}
	w.pass(11, 0.1)
	w.is("detached")
	var state probe.State
	for _, s := range w.tap.probes.List() {
		if strings.Contains(s.Path, "libssl") {
			state = s
		}
	}
	if state.Phase != probe.Suspended || !strings.Contains(state.Reason, "--probe-budget") {
		t.Errorf("%+v", state)
	}
	if calls, _ := w.talk("h1", "127.0.0.1:8080", 4, 10); len(calls) != 40 {
		t.Errorf("%d calls that need no probe", len(calls))
	}
	if _, err := talk("h1s", "127.0.0.1:8443", 10); err != nil {
		t.Error(err)
	}
	w.pass(80, 0.1)
	w.is("full")
	w.eventually("it is attached again", func() bool {
		return !slices.ContainsFunc(w.tap.probes.List(), func(s probe.State) bool { return s.Phase != probe.Attached })
	})
	if calls, _ := w.talk("h1s", "127.0.0.1:8443", 4, 10); len(calls) != 40 {
		t.Errorf("%d calls", len(calls))
	}
}

func sumOf(t flow.Told) uint64 { return t.Calls + t.Lost + t.Unanswered }
