package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/coverage"
	"github.com/spile/spile/agent/govern"
	"github.com/spile/spile/agent/origin"
	"github.com/spile/spile/agent/probe"
	"github.com/spile/spile/agent/source"
	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	procfs      = "/proc"
	reconcile   = 3 * time.Second
	detachLimit = 4 * time.Second
)

// tap is the half of the agent that needs privilege: it loads, attaches and owns links, and parses no outside bytes but
// the ELF files that target reads under a budget. What it shows is a source.Ring.
type tap struct {
	gates     *gates
	objects   *bpf.Objects
	probes    *probe.Registry
	selection *target.Selection
	watcher   *target.Watcher
	explain   *target.Explainer
	processes *origin.Cache
	account   *account
	crashes   *crashes
	governor  *governor
	cgroups   *origin.Cgroups
	ring      *source.Ring
	asked     map[asking]time.Duration // processes with unbound streams → when they asked last, since boot
	stop      context.CancelFunc
	running   sync.WaitGroup
	log       *slog.Logger
}

// openTap attaches to what is selected. When it returns, what runs already is covered. The product does not watch itself:
// kin are its other processes.
func openTap(ctx context.Context, c config, spec target.Spec, kin []uint32, log *slog.Logger) (_ *tap, err error) {
	t := &tap{log: log, asked: map[asking]time.Duration{}}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if t.selection, err = spec.Open(procfs); err != nil {
		return nil, err
	}
	t.gates = tryGates(ctx, c.ignore, log)
	if t.objects, err = bpf.Load(bpf.Options{
		Select:       bpf.Selector{Include: t.selection.Include, Exclude: t.selection.Exclude},
		RingBytes:    c.ringBytes,
		MessageBytes: c.message,
		BudgetBytes:  c.budget,
		BodyBytes:    c.bodies,
		SocketRung:   c.hook,
		ExcludePIDs:  kin,
	}); err != nil {
		return nil, err
	}
	reader, err := t.objects.Reader()
	if err != nil {
		return nil, err
	}
	t.ring = source.New(reader, t.objects)
	if t.probes, err = probe.New(probe.Config{Programs: t.objects, Counters: t.objects, DataDir: c.data, Times: probe.DefaultTimes(), Log: log}); err != nil {
		return nil, err
	}
	t.crashes = newCrashes(t.probes, t.probes, log)
	t.cgroups = origin.NewCgroups()
	t.gates.price(t.objects)
	t.governor = newGovernor(govern.Budget{Agent: c.cpu, Probes: c.probes, Library: c.library}, t.objects, t.probes, log)
	t.governor.ns, t.governor.names, t.governor.cgroup = t.gates.hitNs, t.fileNames, t.cgroups.Path
	if held, _ := heldStage(c.stage); held != nil {
		if err = t.governor.hold(*held); err != nil {
			return nil, err
		}
	}
	t.governor.loose = func() (uint64, error) {
		hits, err := t.objects.Hits([]uint32{0})
		if err != nil {
			return 0, err
		}
		return hits[0], nil
	}
	cache := target.NewCache(target.DefaultBudget())
	known := origin.DefaultConfig()
	known.Proc = procfs
	known.BuildID = (&target.Builds{Proc: procfs, Cache: cache}).ID
	t.processes = origin.New(known)
	deny, err := target.OpenDenylist(c.deny, procfs)
	if err != nil {
		return nil, err
	}
	t.explain = &target.Explainer{Proc: procfs, Cache: cache, Libraries: target.Libraries(), Probe: t.probes.State, Deny: deny}
	t.watcher = target.NewWatcher(target.Config{
		Proc: procfs, Selection: t.selection, Sink: gated{t.probes, t.gates}, Cache: cache, Libraries: target.Libraries(), Reconcile: reconcile,
		SetExe: t.objects.SetExe, Kin: kin, Deny: deny, Alone: t.probes.Alone,
	})
	t.account = &account{
		table: coverage.New(), read: t.objects.Coverage, explain: t.explain.Explain, owner: t.processes.Lookup, log: log,
	}
	if err = t.watcher.Scan(); err != nil {
		return nil, fmt.Errorf("look at what runs: %w", err)
	}
	ctx, t.stop = context.WithCancel(ctx)
	t.running.Go(func() { t.account.run(ctx) })
	t.running.Go(func() { t.crashes.run(ctx) })
	t.running.Go(func() { t.governor.run(ctx) })
	t.running.Go(func() { t.gates.measure(ctx, log) })
	go t.explain.Hold(ctx) // not waited for: it may be held up by a file system
	t.running.Go(func() {
		if err := t.watcher.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			log.Error("the search for programs ended: programs that start from now on may be missed; restart the agent", "error", err)
		}
	})
	return t, nil
}

// process hears of programs that begin and end. It belongs to the ring's goroutine, so it opens no file of a program:
// that may be on a file system that does not answer.
func (t *tap) process(p source.Process) {
	switch p.Kind {
	case source.Exec:
		t.processes.Exec(p.TGID, p.Start, p.Time, p.Cgroup)
		t.watcher.Exec(p.TGID, p.Exe)
		t.explain.Started(p.TGID, p.Start, p.Exe)
		t.crashes.started(p)
	case source.Crash:
		t.crashes.hear(p)
	case source.Exit:
		t.processes.Exit(p.TGID, p.Start, p.Time)
		t.watcher.Exit(p.TGID, p.Start)
	}
}

// fileNames says what people call the probed files.
func (t *tap) fileNames() map[target.Identity]string {
	names := map[target.Identity]string{}
	for _, s := range t.probes.List() {
		names[s.ID] = clean(s.Path)
	}
	return names
}

// owner fills in what is known of the process at one end.
func (t *tap) owner(o chunk.Owner, at time.Duration, peer *v1.Peer) {
	t.processes.Lookup(o, at).Fill(peer)
	peer.Process = clean(peer.Process)
}

// askAgain is how long after it asked a process with unbound streams asks again: it may have mapped more meanwhile.
const askAgain = 5 * time.Second

// maxAsking bounds the memory of who asked; beyond it everybody asks once more.
const maxAsking = 4096

type asking struct {
	tgid  uint32
	start time.Duration
}

// unbound sees to the libraries that a process needs for its TLS streams to find their sockets. It belongs to the ring's
// goroutine.
func (t *tap) unbound(o chunk.Owner, at time.Duration) {
	who := asking{o.TGID, o.Start}
	if last, asked := t.asked[who]; asked && at-last < askAgain {
		return
	}
	if len(t.asked) >= maxAsking {
		clear(t.asked)
	}
	t.asked[who] = at
	t.watcher.Unbound(o.TGID)
}

func (t *tap) mute(s chunk.StreamID) {
	// A stream that is gone cannot be muted and need not be.
	_ = t.objects.Mute(uint64(s))
}

// close detaches everything; what the kernel still holds after the limit goes with the process.
func (t *tap) close() {
	if t.stop != nil {
		t.stop()
	}
	t.running.Wait()
	if t.probes != nil {
		ctx, cancel := context.WithTimeout(context.Background(), detachLimit)
		defer cancel()
		if err := t.probes.Close(ctx); err != nil {
			t.log.Warn("some probes are left to the kernel, which removes them when this process ends", "error", err)
		}
	}
	if t.objects != nil {
		if err := t.objects.Close(); err != nil {
			t.log.Warn("detach", "error", err)
		}
	}
	if t.explain != nil {
		t.explain.Close()
	}
	if t.selection != nil {
		t.selection.Close()
	}
}
