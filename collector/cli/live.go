package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	// liveCallsPerSecond is what a person can follow; the rest is counted.
	liveCallsPerSecond = 30
	pollInterval       = time.Second
	// liveBuffer is how many things may wait for the terminal before readers lag.
	liveBuffer = 256
	maxTold    = 10_000
	// gapPatience is how long something must be missing before it is told: longer than an agent takes from one report to the
	// next, in which it looks at a new process and attaches to a new file.
	gapPatience = 6 * time.Second
	// runAway stands for no run.
	runAway = "away"
)

// live prints what the collector in the data directory sees, as it happens: what is watched, what is not covered and why,
// findings, and calls up to a rate that can be read. It ends with ctx, or with an error when Stdout is gone.
type live struct {
	world World
	calls *callTable
	// told are the things that are said once.
	told map[string]bool
	// runs are what was said last of each node: what its agent watches, or that it is away.
	runs map[string]string
	// gaps are what each node's newest report says is missing, since when.
	gaps    map[string]map[string]time.Time
	second  time.Time
	shown   int
	skipped uint64
}

// Watch shows the collector that answers at socket. A *Failure is about the collector; any other error is about Stdout.
func Watch(ctx context.Context, w World, socket string) error {
	at := where{server: "unix:" + socket}
	c, err := at.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &live{world: w, calls: newCallTable(w, true), told: map[string]bool{}}
	events, failed := make(chan any, liveBuffer), make(chan error, 3)
	go func() { failed <- followCalls(ctx, c, w.Now(), events) }()
	go func() { failed <- followFindings(ctx, c, events) }()
	go func() { failed <- followAgents(ctx, c, events) }()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case e := <-events:
			err = l.show(e)
		case <-tick.C:
			err = l.summary()
		case err = <-failed:
			err = c.explain(ctx, err)
		case <-ctx.Done():
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func followCalls(ctx context.Context, c *client, from time.Time, out chan<- any) error {
	stream, err := v1.NewEventsClient(c).GetEvents(ctx, &v1.GetEventsRequest{Follow: true, Since: timestamppb.New(from)})
	if err != nil {
		return err
	}
	for {
		res, err := stream.Recv()
		if err != nil {
			return ended(err)
		}
		if lag := res.GetLag(); lag != nil {
			if !send(ctx, out, lag) {
				return nil
			}
		} else if !send(ctx, out, res.GetCall()) {
			return nil
		}
	}
}

func followFindings(ctx context.Context, c *client, out chan<- any) error {
	next, err := c.findings(ctx, &v1.WatchFindingsRequest{})
	if err != nil {
		return ended(err)
	}
	for {
		f, err := next()
		if err != nil {
			return ended(err)
		}
		if !send(ctx, out, f) {
			return nil
		}
	}
}

func followAgents(ctx context.Context, c *client, out chan<- any) error {
	for {
		list, err := everyAgent(ctx, c)
		if err != nil {
			return err
		}
		for _, a := range list {
			if !send(ctx, out, a) {
				return nil
			}
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return nil
		}
	}
}

func send(ctx context.Context, out chan<- any, v any) bool {
	select {
	case out <- v:
		return true
	case <-ctx.Done():
		return false
	}
}

func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the collector ended the stream")
	}
	return err
}

func (l *live) show(e any) error {
	switch e := e.(type) {
	case *v1.Call:
		return l.call(e)
	case *v1.Lag:
		l.skipped += e.GetMissed()
	case *v1.Finding:
		return l.finding(e)
	case *v1.Agent:
		return l.agent(e)
	}
	return nil
}

func (l *live) call(c *v1.Call) error {
	if now := l.world.Now(); now.Sub(l.second) >= time.Second {
		l.second, l.shown = now, 0
	}
	if l.shown >= liveCallsPerSecond {
		l.skipped++
		return nil
	}
	l.shown++
	return l.calls.Add(c)
}

// summary says how many calls were not shown one by one.
func (l *live) summary() error {
	if l.skipped == 0 {
		return nil
	}
	n := l.skipped
	l.skipped = 0
	return l.note(faint, "… %s more (spile calls shows all)", plural(n, "call"))
}

// finding tells a finding when it is new and when its severity changes.
func (l *live) finding(f *v1.Finding) error {
	key := "finding " + f.GetId() + " " + f.GetSeverity() + " " + f.GetState()
	if !l.first(key) {
		return nil
	}
	scope := ""
	if f.GetScope() != "" {
		scope = ", " + f.GetScope()
	}
	return l.note(severityStyle(f.GetSeverity()), "finding (%s%s) %s: %s: %s %s %s", f.GetSeverity(), scope, f.GetRule(), f.GetTitle(),
		f.GetService(), f.GetMethod(), f.GetRoute())
}

// agent tells, once each, what is watched and with which hooks, what it does about its cost, and what is not covered and why.
func (l *live) agent(a *v1.Agent) error {
	h := a.GetHealth()
	if err := l.run(a); err != nil {
		return err
	}
	// Before it watches, an agent has no hooks to name.
	if len(h.GetRungs()) == 0 {
		return nil
	}
	var lines []string
	for _, p := range h.GetProbes() {
		if notProbed(p) && p.GetState() != "canary" {
			lines = append(lines, "not seen: "+p.GetLibrary()+" "+p.GetPath()+": "+p.GetReason())
		}
	}
	for _, text := range lines {
		if !l.first(text) {
			continue
		}
		if err := l.note(faint, "%s", text); err != nil {
			return err
		}
	}
	if err := tellCost(l.world.Now(), h, func(key, text string) error {
		if !l.first("cost " + a.GetNode() + "\x00" + key) {
			return nil
		}
		return l.note(faint, "%s", text)
	}); err != nil {
		return err
	}
	return l.missing(a)
}

// run tells what an agent watches, again for each of its runs, and when it watches no more: a line that was true of an earlier
// run is not taken for one of this.
func (l *live) run(a *v1.Agent) error {
	h, now, text := a.GetHealth(), "", ""
	switch said := l.runs[a.GetNode()]; {
	case a.GetConnected() && len(h.GetRungs()) == 0:
		return nil
	case a.GetConnected():
		text = "watching " + targets(h) + " on " + a.GetNode() + " (hooks: " + rungs(h) + ")"
		now = fmt.Sprint(h.GetEpoch(), " ", text)
	case said == "" || said == runAway:
		return nil
	default:
		text, now = "nothing is watched on "+a.GetNode()+": its agent is away", runAway
	}
	if l.runs[a.GetNode()] == now {
		return nil
	}
	if l.runs == nil || len(l.runs) >= maxTold {
		l.runs = map[string]string{}
	}
	l.runs[a.GetNode()] = now
	return l.note(faint, "%s", text)
}

// missing tells, once each, what has been missing for a while.
func (l *live) missing(a *v1.Agent) error {
	now, before, still := l.world.Now(), l.gaps[a.GetNode()], map[string]time.Time{}
	err := tellGaps(a, func(key, text string) error {
		since, known := before[key]
		if !known {
			since = now
		}
		still[key] = since
		if now.Sub(since) < gapPatience || !l.first("gap "+a.GetNode()+"\x00"+key) {
			return nil
		}
		return l.note(faint, "%s", text)
	})
	if l.gaps == nil {
		l.gaps = map[string]map[string]time.Time{}
	}
	l.gaps[a.GetNode()] = still
	return err
}

// first tells whether a thing was not said before. What was said is forgotten rather than held without bound.
func (l *live) first(key string) bool {
	if l.told[key] {
		return false
	}
	if len(l.told) >= maxTold {
		clear(l.told)
	}
	l.told[key] = true
	return true
}

func (l *live) note(style style, format string, args ...any) error {
	text := "# " + Clean(fmt.Sprintf(format, args...))
	if l.world.Terminal && l.world.Width >= readable {
		const below = "#   "
		text = strings.Join(wrapped(text, l.world.Width-len(below)), "\n"+below)
	}
	if l.world.colour() && style != plain {
		text = string(style) + text + reset
	}
	_, err := fmt.Fprintln(l.world.Stdout, text)
	return err
}
