package main

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/gate"
	"github.com/spile/spile/agent/guard"
	"github.com/spile/spile/agent/probe"
	"github.com/spile/spile/agent/source"
	"github.com/spile/spile/agent/target"
	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	// maxCrashes that wait for judgement. A build that crashes in a loop is judged by its first ones.
	maxCrashes = 256
	// grace is how much a suspension outlives its trial: who is convicted is denied while the probes are still out.
	grace = time.Minute
	// clockTick is USER_HZ, in which procfs counts, and with it target.Process.
	clockTick = 10 * time.Millisecond
	// quiet is how long a suspicion is not told again: a program may crash a hundred times a second.
	quiet = time.Minute
	// settling: of many workers that crash together the later ones do so before the probes are out, or just after.
	settling = time.Second
	// maxDenied bounds what is remembered of that.
	maxDenied = 1024
)

// attached says what is probed: *probe.Registry.
type attached interface {
	// Slot says which file a slot stands for, or stood for last.
	Slot(n uint32) (probe.Placed, bool)
	// Uses lists the probed files that a process maps, as far as it is followed.
	Uses(p target.Process) []target.Identity
	// InAll lists the files that are probed in every process that maps them, as one that runs this program may do.
	InAll(program uint64) []target.Identity
	// MayLie lists those of some files that have a probe where an address may be, by its place in the page.
	MayLie(among []target.Identity, address uint64) []target.Identity
}

// quarantine takes probes out: *probe.Registry.
type quarantine interface {
	Deny(id target.Identity, why, evidence string) error
	Suspend(id target.Identity, by, why string, d time.Duration) bool
	Resume(id target.Identity, by string) bool
}

// crashes hears of every program that crashes and takes the probes out of what they harm. It judges in a goroutine of its
// own: taking probes out takes some 50 ms, and the ring does not wait.
type crashes struct {
	attached   attached
	quarantine quarantine
	log        *slog.Logger
	queue      chan crash
	unjudged   atomic.Uint64
	// The goroutine's own:
	trials map[guard.Build]trial
	denied map[target.Identity]time.Duration // since boot: when its probes were out
	told   time.Duration                     // since boot: when a suspicion was told
	now    func() time.Duration              // since boot

	mu    sync.Mutex
	judge *guard.Guard
}

// trial is what was suspended for whom.
type trial struct {
	comm  string
	files []target.Identity
}

// crash is a crash, and what was probed in the process when it was told.
type crash struct {
	source.Process
	called *target.Identity  // the file of the call that it was in
	mapped []target.Identity // all probed files that it mapped, as far as it was followed
	shared []target.Identity // of a process that is not followed: all that are probed in whoever maps them
	struck []target.Identity // whose breakpoint it may have hit
	atSite bool              // exactly at the instruction that the probe of its call lies on
}

func newCrashes(a attached, q quarantine, log *slog.Logger) *crashes {
	return &crashes{
		attached: a, quarantine: q, log: log, queue: make(chan crash, maxCrashes), trials: map[guard.Build]trial{},
		denied: map[target.Identity]time.Duration{}, now: source.SinceBoot, judge: guard.New(gate.ProbeSyscalls()...),
	}
}

// hear takes a crash. It belongs to the ring's goroutine: who maps what is forgotten with the exit, which follows.
func (c *crashes) hear(p source.Process) {
	k := p.Crash
	one := crash{Process: p, mapped: c.attached.Uses(target.Process{PID: p.TGID, Start: uint64(p.Start / clockTick)})}
	if placed, ok := c.attached.Slot(k.Slot); ok && k.InCall {
		one.called = &placed.ID
	}
	among := one.mapped
	if len(among) == 0 {
		one.shared = c.attached.InAll(p.Exe.Ino)
		among = one.shared
	}
	if one.called != nil && !slices.Contains(among, *one.called) {
		among = append(slices.Clone(among), *one.called)
	}
	if k.Signal == int(unix.SIGTRAP) && k.Code > 0 {
		one.struck = c.attached.MayLie(among, k.IP-breakpointBytes())
	}
	if k.AtSite { // or up to 15 bytes behind it
		one.atSite = len(one.struck) > 0 || len(c.attached.MayLie(among, k.IP)) > 0
	}
	select {
	case c.queue <- one:
	default:
		c.unjudged.Add(1)
	}
}

// breakpointBytes is how far behind a breakpoint a processor stops: x86 has executed it then.
func breakpointBytes() uint64 {
	if runtime.GOARCH == "amd64" {
		return 1
	}
	return 0
}

// started hears of a program that begins: if it does not crash without probes, they were the cause. It belongs to the
// ring's goroutine.
func (c *crashes) started(p source.Process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.judge.Started(buildOf(p), p.Time)
}

// run judges until ctx ends.
func (c *crashes) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case one := <-c.queue:
			c.act(one, c.verdict(one))
		case <-tick.C:
			c.end(c.now())
		}
	}
}

func buildOf(p source.Process) guard.Build { return guard.Build{Dev: p.Exe.Dev, Ino: p.Exe.Ino} }

// trialOf names who suspends: of two trials of one library the end of one must not be that of the other.
func trialOf(b guard.Build) string { return fmt.Sprintf("trial of %d:%d", b.Dev, b.Ino) }

func (c *crashes) verdict(one crash) guard.Verdict {
	probed := len(one.mapped) > 0 || one.called != nil || len(one.struck) > 0
	if t, tried := c.trials[buildOf(one.Process)]; tried {
		// Other files may well be probed on.
		probed = slices.ContainsFunc(t.files, func(id target.Identity) bool { return slices.Contains(one.mapped, id) })
	}
	k := one.Crash
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.judge.Crash(guard.Crash{
		Time: one.Time, Build: buildOf(one.Process), Signal: k.Signal, Code: k.Code, Syscall: k.Syscall,
		Seen: k.IP != 0, BySelf: k.BySelf, InCall: k.InCall, AtSite: one.atSite, Behind: k.AtSite && !one.atSite,
		OnBreakpoint: len(one.struck) > 0, InUprobeArea: k.InUprobeArea, Probed: probed,
	})
}

// culprits are the files to take probes out of: those whose breakpoint it may have hit, the one whose call it was in, else
// all that it mapped. Of a process that is not followed nobody knows what it mapped: all that lie in others, too.
func (one crash) culprits() []target.Identity {
	switch {
	case len(one.struck) > 0:
		return one.struck
	case one.called != nil:
		return []target.Identity{*one.called}
	case len(one.mapped) > 0:
		return one.mapped
	}
	return one.shared
}

func (c *crashes) act(one crash, v guard.Verdict) {
	build, who := buildOf(one.Process), []any{"process", clean(one.Comm), "pid", one.TGID, "reason", v.Why}
	switch v.Outcome {
	case guard.Suspected:
		if c.told == 0 || one.Time-c.told >= quiet {
			c.told = one.Time
			c.log.Info("a program crashed inside a probed call; it is watched", who...)
		}
	case guard.Blamed:
		files := one.culprits()
		if t, tried := c.trials[build]; tried && len(files) == 0 {
			files = t.files
		}
		delete(c.trials, build)
		if len(files) == 0 {
			c.unprobed(who)
			return
		}
		if files = c.undenied(files, one.Time); len(files) == 0 {
			return
		}
		c.log.Warn("a program crashed because it was probed: the probes are taken out for good", append(who, "files", len(files),
			"remedy", "nothing needs to be done; to see other programs with the same library again, keep probes out of this one "+
				"(--deny exe=PATH) and then allow the build (spile-agent allow)")...)
		for _, id := range files {
			c.deny(id, v.Why, one.evidence())
		}
	case guard.Tried:
		files := one.culprits()
		if len(files) == 0 {
			c.unprobed(who)
			return
		}
		if len(c.trials) < maxDenied { // beyond it a file comes back when its suspension is over
			c.trials[build] = trial{clean(one.Comm), files}
		}
		c.log.Warn("a program may crash because it is probed: the probes are taken out to see", append(who, "files", len(files),
			"remedy", fmt.Sprintf("nothing needs to be done; they stay out if it is started within %s and does not crash, else they are put back", v.Trial))...)
		for _, id := range files {
			c.quarantine.Suspend(id, trialOf(build), "on trial: "+v.Why+" of "+clean(one.Comm), v.Trial+grace)
		}
	case guard.Acquitted:
		c.log.Info("a program crashes on without probes: they are put back", who...)
		for _, id := range c.trials[build].files {
			c.quarantine.Resume(id, trialOf(build))
		}
		delete(c.trials, build)
	}
}

// unprobed tells of a program that crashed by a probe when there was none of ours.
func (c *crashes) unprobed(who []any) {
	c.log.Warn("a program crashed as if it was probed, but not by this agent", append(who, "remedy",
		"look for other tools that probe it; if there are none, keep all probes out of it with --deny exe=")...)
}

// undenied leaves out the files that the probes had left, or were leaving, when the crash came: nothing new is said of them.
func (c *crashes) undenied(files []target.Identity, crashed time.Duration) (left []target.Identity) {
	for _, id := range files {
		if out, ok := c.denied[id]; !ok || crashed-out >= settling {
			left = append(left, id)
		}
	}
	return left
}

// end ends the trials whose time is over: what did no harm while it was out is denied, the rest comes back.
func (c *crashes) end(now time.Duration) {
	c.mu.Lock()
	ends := c.judge.Tick(now)
	c.mu.Unlock()
	for _, e := range ends {
		t := c.trials[e.Build]
		delete(c.trials, e.Build)
		what := []any{"process", t.comm, "files", len(t.files), "reason", e.Why}
		if e.Convicted {
			c.log.Warn("a program did not crash without probes: they stay out for good", append(what, "remedy", "nothing needs to be done; "+
				"if that was by chance, allow the build (spile-agent allow)")...)
			for _, id := range t.files {
				c.deny(id, e.Why, fmt.Sprintf("executable %d:%d (%s)", e.Dev, e.Ino, t.comm))
			}
			continue
		}
		c.log.Warn("a trial decided nothing: the probes are put back", append(what, "remedy",
			"nothing needs to be done; to keep all probes out of the program use --deny exe=PATH")...)
		for _, id := range t.files {
			c.quarantine.Resume(id, trialOf(e.Build))
		}
	}
}

func (c *crashes) deny(id target.Identity, why, evidence string) {
	if err := c.quarantine.Deny(id, why, evidence); err != nil {
		c.log.Error("the probes are out, but come back when the agent restarts", "reason", err)
	}
	if len(c.denied) >= maxDenied {
		clear(c.denied)
	}
	c.denied[id] = c.now()
}

// evidence is what the kernel saw, for whoever looks into it.
func (one crash) evidence() string {
	k := one.Crash
	facts := []string{fmt.Sprintf("%s (%d)", clean(one.Comm), one.TGID), unix.SignalName(unix.Signal(k.Signal)), fmt.Sprintf("si_code %d", k.Code), fmt.Sprintf("ip %#x", k.IP)}
	for _, f := range []struct {
		is   bool
		says string
	}{
		{k.InCall, "in a probed call"}, {one.atSite, "at the probed instruction"}, {k.AtSite && !one.atSite, "right behind the probed instruction"},
		{len(one.struck) > 0, "at the place of a probe's breakpoint"}, {k.InUprobeArea, "in the uprobe page"}, {k.BySelf, "sent by itself"},
		{k.Signal == int(unix.SIGSYS), fmt.Sprintf("system call %d", k.Syscall)},
	} {
		if f.is {
			facts = append(facts, f.says)
		}
	}
	return strings.Join(facts, ", ")
}

// counts are what became of crashes.
func (c *crashes) counts() []*v1.Count {
	c.mu.Lock()
	n := c.judge.Counts()
	c.mu.Unlock()
	var list []*v1.Count
	for _, count := range []struct {
		name  string
		value uint64
	}{
		{"crashes_blamed", n.Blamed}, {"crashes_suspected", n.Suspected}, {"crashes_own", n.Own}, {"crashes_unjudged", c.unjudged.Load()},
		{"trials", n.Trials}, {"acquitted", n.Acquitted}, {"convicted", n.Convicted}, {"undecided", n.Undecided}, {"builds_forgotten", n.Forgotten},
	} {
		list = append(list, &v1.Count{Stage: "guard", Name: count.name, Value: count.value})
	}
	return list
}
