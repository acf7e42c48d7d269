package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spile/spile/agent/govern"
	"github.com/spile/spile/agent/probe"
	"github.com/spile/spile/agent/source"
	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	governEvery = time.Second
	lossesEvery = 5 // of those
	// governShare bounds what measuring costs: whatever a reading of all hits took, the next comes this many times later.
	governShare = 500
	// suspendFor outlasts every try of the governor, which takes a file back by itself; a file that is to stay out for longer
	// is suspended again in time.
	suspendFor   = time.Hour
	suspendAgain = suspendFor * 9 / 10
	asGovernor   = "governor" // who suspends; a trial of the guard is another
)

// sheds takes a policy: *bpf.Objects.
type sheds interface {
	SetShed(all bpf.Shed, byCgroup map[uint64]bpf.Shed) error
	CgroupLosses() ([]bpf.CgroupLoss, error)
}

// suspender knows what probes cost, and takes them out of a file for a while: *probe.Registry.
type suspender interface {
	Costs(ns func(class target.Class, atExit bool) float64) ([]probe.Cost, error)
	Suspend(id target.Identity, by, why string, d time.Duration) bool
	Resume(id target.Identity, by string) bool
}

// governor measures once a second what the agent and its probes cost, and has the kernel show less of what costs too much.
// It owns a goroutine; the ring's goroutine tells it what arrived, health asks it for its account.
type governor struct {
	judge  *govern.Governor
	held   *govern.Decision // nil = it judges
	budget govern.Budget
	sheds  sheds
	probes suspender
	ns     func(class target.Class, atExit bool) float64 // what one hit costs
	loose  func() (uint64, error)                        // hits that belong to no file: of kernels without attach cookies (before 5.15)
	names  func() map[target.Identity]string             // of files, for people
	cgroup func(id uint64) string                        // path
	cpu    func() time.Duration                          // that this process used so far
	log    *slog.Logger

	last      time.Duration // since boot
	used      time.Duration
	costs     map[target.Identity]time.Duration
	priced    time.Duration // when costs were read, since boot
	nextPrice time.Duration
	files     []govern.File // as they were last priced
	hits      uint64        // that belong to no file
	fixed     float64       // cores that those cost
	stuck     bool
	unheard   bool // the kernel did not take the last policy
	known     map[target.Identity]named
	keys      map[string]target.Identity
	out       map[string]suspended // what is suspended
	lost      map[uint64]bpf.CgroupLoss
	turns     int
	failing   map[string]bool // what failed the last time, so that it is told once

	mu      sync.Mutex
	arrived []govern.Share
	now     govern.Decision
	changes map[govern.Stage]uint64 // how often each stage was entered
}

// named is how a file is called here and by people.
type named struct{ key, name string }

// suspended is a file whose probes are out.
type suspended struct {
	why  string
	when time.Duration // since boot, when that was last said
}

func newGovernor(b govern.Budget, s sheds, p suspender, log *slog.Logger) *governor {
	return &governor{
		judge: govern.New(b), budget: b, sheds: s, probes: p, cpu: ownCPU, log: log,
		ns:     func(target.Class, bool) float64 { return 0 },
		loose:  func() (uint64, error) { return 0, nil },
		names:  func() map[target.Identity]string { return nil },
		cgroup: func(id uint64) string { return fmt.Sprintf("cgroup %d", id) },
		costs:  map[target.Identity]time.Duration{}, known: map[target.Identity]named{}, keys: map[string]target.Identity{},
		out: map[string]suspended{}, lost: map[uint64]bpf.CgroupLoss{}, failing: map[string]bool{}, changes: map[govern.Stage]uint64{},
		now: govern.Decision{OneIn: 1},
	}
}

// ownCPU is the processor time of all threads of this process.
func ownCPU() time.Duration {
	var u unix.Rusage
	// It cannot fail for RUSAGE_SELF.
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// run governs until ctx ends.
func (g *governor) run(ctx context.Context) {
	tick := time.NewTicker(governEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		g.turn(source.SinceBoot())
	}
}

// turn measures, judges and acts.
func (g *governor) turn(now time.Duration) {
	used := g.cpu()
	elapsed := now - g.last
	if g.last == 0 || elapsed <= 0 {
		g.last, g.used = now, used
		g.price(now)
		g.judge.Step(govern.Sample{Now: now})
		return
	}
	s := govern.Sample{Now: now, Agent: float64(used-g.used) / float64(elapsed)}
	g.last, g.used = now, used
	if now >= g.nextPrice {
		g.price(now)
	}
	s.Files, s.Fixed = g.files, g.fixed
	s.Shares = g.shares()
	d := g.step(s)
	g.act(now, d)
	g.mu.Lock()
	g.now = d
	if d.Changed {
		g.changes[d.Stage]++
	}
	g.mu.Unlock()
}

// price reads what the probes of each file cost since the last time.
func (g *governor) price(now time.Duration) {
	begun := time.Now()
	list, err := g.probes.Costs(g.ns)
	hits, looseErr := g.loose()
	took := time.Since(begun)
	if g.failed("read what probes cost", errors.Join(err, looseErr)) {
		return
	}
	elapsed := now - g.priced
	first := g.priced == 0
	if !first && elapsed > 0 {
		g.fixed = float64(hits-g.hits) * g.ns(target.Unknown, false) / float64(elapsed)
	}
	g.hits = hits
	g.priced, g.nextPrice = now, now+max(governEvery/2, took*governShare)
	g.files = g.files[:0]
	costs := make(map[target.Identity]time.Duration, len(list))
	names := sync.OnceValue(g.names) // it lists all files, and is asked only when there are new ones
	for _, c := range list {
		costs[c.ID] = c.Cost
		if f, ok := g.file(c.ID, names); ok && !first && elapsed > 0 {
			f.Cores = float64(c.Cost-g.costs[c.ID]) / float64(elapsed)
			g.files = append(g.files, f)
		}
	}
	g.costs = costs
	for id, n := range g.known {
		_, is := costs[id]
		if _, out := g.out[n.key]; !is && !out {
			delete(g.known, id)
			delete(g.keys, n.key)
		}
	}
}

// file names a file. One that is suspended costs nothing and is not judged.
func (g *governor) file(id target.Identity, names func() map[target.Identity]string) (govern.File, bool) {
	n, known := g.known[id]
	if !known {
		n = named{fmt.Sprintf("%d:%d:%s", id.Dev, id.Ino, id.BuildID), names()[id]}
		if n.name == "" {
			n.name = "build id " + id.BuildID
		}
		g.known[id], g.keys[n.key] = n, id
	}
	_, out := g.out[n.key]
	return govern.File{Key: n.key, Name: n.name}, !out
}

// act has a decision done.
func (g *governor) act(now time.Duration, d govern.Decision) {
	if d.Changed || g.unheard {
		shed := bpf.Shed{Bodies: d.Bodies(), Responses: d.Responses(), OneIn: d.OneIn}
		var all bpf.Shed
		var one map[uint64]bpf.Shed
		if d.Cgroup != 0 {
			one = map[uint64]bpf.Shed{d.Cgroup: shed}
		} else {
			all = shed
		}
		err := g.sheds.SetShed(all, one)
		g.unheard = err != nil
		g.failed("have the kernel show less", err)
	}
	if d.Changed {
		g.tell(d)
	}
	if stuck := d.Stuck != ""; stuck != g.stuck {
		if g.stuck = stuck; stuck {
			g.log.Warn("a budget is exceeded", "reason", d.Stuck)
		}
	}
	for _, x := range d.Suspend {
		if !d.Changed {
			g.log.Warn("probes are taken out", "file", g.known[g.keys[x.Key]].name, "reason", x.Reason)
		}
		g.out[x.Key] = suspended{x.Reason, now}
		// Until costs are read again, what it cost before would count as if it still did.
		g.files = slices.DeleteFunc(g.files, func(f govern.File) bool { return f.Key == x.Key })
		g.probes.Suspend(g.keys[x.Key], asGovernor, x.Reason, suspendFor)
	}
	for _, key := range d.Resume {
		delete(g.out, key)
		g.probes.Resume(g.keys[key], asGovernor)
		g.log.Info("probes are put back", "file", g.known[g.keys[key]].name)
	}
	for key, s := range g.out {
		if now-s.when > suspendAgain {
			g.out[key] = suspended{s.why, now}
			g.probes.Suspend(g.keys[key], asGovernor, s.why, suspendFor)
		}
	}
}

// tell logs a change in one line.
func (g *governor) tell(d govern.Decision) {
	who := "all"
	if d.Cgroup != 0 {
		who = g.cgroup(d.Cgroup)
	}
	facts := []any{"stage", d.Stage, "of", who, "agent_cores", fmt.Sprintf("%.2f", d.Agent), "probe_cores", fmt.Sprintf("%.2f", d.Probes)}
	if d.OneIn > 1 {
		facts = append(facts, "connections", fmt.Sprintf("1 in %d", d.OneIn))
	}
	switch before := g.now; { // nobody else writes it
	case d.Stage == govern.Full:
		g.log.Info("everything is taken in again", facts...)
	case d.Stage < before.Stage || d.Stage == before.Stage && d.OneIn < before.OneIn && len(d.Suspend) == 0,
		len(d.Resume) > 0 && len(d.Suspend) == 0 && d.OneIn <= before.OneIn: // one of the files that are out
		g.log.Info("more is taken in again", append(facts, "reason", d.Reason)...)
	default:
		g.log.Warn("less is taken in", append(facts, "reason", d.Reason)...)
	}
}

// failed tells of an error once, and of its end not at all.
func (g *governor) failed(what string, err error) bool {
	if err != nil && !g.failing[what] {
		g.log.Warn(what, "error", err)
	}
	g.failing[what] = err != nil
	return err != nil
}

// shares is what arrived since the last turn, and what was dropped for lack of room.
func (g *governor) shares() []govern.Share {
	g.mu.Lock()
	list := g.arrived
	g.arrived = nil
	g.mu.Unlock()
	if g.turns++; g.turns%lossesEvery != 0 {
		return list
	}
	losses, err := g.sheds.CgroupLosses()
	if g.failed("read the losses of cgroups", err) {
		return list
	}
	sums := make(map[uint64]bpf.CgroupLoss, len(losses))
	for _, l := range losses {
		if l.Reason == "sampled" {
			continue // nobody asked for it
		}
		sum := sums[cgroupOf(l.Cgroup)]
		sum.Events += l.Events
		sum.Bytes += l.Bytes
		sums[cgroupOf(l.Cgroup)] = sum
	}
	for cgroup, sum := range sums {
		old := g.lost[cgroup]
		if sum.Events > old.Events && g.turns > lossesEvery {
			list = append(list, govern.Share{Cgroup: cgroup, Events: sum.Events - old.Events, Bytes: sum.Bytes - min(old.Bytes, sum.Bytes)})
		}
	}
	g.lost = sums
	return list
}

// account is what health tells of the governor.
func (g *governor) account(boot time.Duration) *v1.Governor {
	g.mu.Lock()
	d := g.now
	g.mu.Unlock()
	h := &v1.Governor{
		Stage: d.Stage.String(), AgentCores: d.Agent, ProbeCores: d.Probes,
		AgentBudgetCores: g.budget.Agent, ProbeBudgetCores: g.budget.Probes, Reason: d.Reason,
	}
	if d.Since > 0 {
		h.Since = timestamppb.New(time.Unix(0, int64(d.Since+boot)).Truncate(time.Second)) // the clocks' distance varies
	}
	if d.Cgroup != 0 {
		h.Cgroup = g.cgroup(d.Cgroup)
	}
	if d.Stuck != "" {
		h.Reason = d.Stuck
	}
	if d.OneIn > 1 {
		h.Reason += fmt.Sprintf("; one connection in %d is kept", d.OneIn)
	}
	return h
}

// counts are how often each stage was entered.
func (g *governor) counts() []*v1.Count {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []*v1.Count
	for s := govern.Full; s <= govern.Detached; s++ {
		list = append(list, &v1.Count{Stage: "governor", Name: "entered_" + s.String(), Value: g.changes[s]})
	}
	return list
}
