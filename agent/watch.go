package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/govern"
	"github.com/spile/spile/agent/ship"
	"github.com/spile/spile/agent/target"
	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	clockEvery = 10 * time.Second // how often the wall clock is compared with the boot clock
	drainLimit = 5 * time.Second  // how long the end waits for receipts; the rest stays in the spool
)

// agent is the running program: a tap, a pipeline and a shipper.
type agent struct {
	config
	log     *slog.Logger
	shipper *ship.Shipper
	tap     atomic.Pointer[tap]
	line    atomic.Pointer[[]*v1.Count] // the pipeline's own counts, taken in its goroutine
	// healthMu keeps the tap open while its account is taken; last is the account at the end, when there is no tap to ask.
	healthMu sync.Mutex
	last     *v1.Health
	kin      []uint32        // processes of the product besides this one
	key      chan installKey // the first Welcome's
	keyOnce  sync.Once
	keyMu    sync.Mutex
	inUse    *installKey // what hashes are made with, once that is decided; guarded by keyMu
	cancel   context.CancelCauseFunc
}

var errKeyChanged = errors.New("the collector handed out another install key: restarting the agent makes it the one in use")

// watch is the agent's main work.
func watch(ctx context.Context, w world, c config, _ []string) error {
	spec, err := target.ParseSpec(c.targets)
	if err != nil {
		return usageError{err}
	}
	if _, err := target.OpenDenylist(c.deny, procfs); err != nil {
		return usageError{fmt.Errorf("--deny: %w", err)}
	}
	if err := needsRoot(); err != nil {
		return err
	}
	// A target that cannot be found is told before anybody is asked for a key.
	selection, err := spec.Open(procfs)
	if err != nil {
		return err
	}
	selection.Close()
	credentials, err := credentials(c)
	if err != nil {
		return err
	}
	held, err := lock(c.data)
	if err != nil {
		return err
	}
	defer held.Close()
	processors(c.cpu)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	child, err := followParent(w, func() { cancel(nil) })
	if err != nil {
		return err
	}
	a := &agent{config: c, log: logger(w), key: make(chan installKey, 1), cancel: cancel}
	if child {
		a.kin = []uint32{uint32(os.Getppid())}
	}
	a.shipper, err = ship.New(ship.Config{
		Address: c.collector, TLS: credentials, SpoolDir: filepath.Join(c.data, "spool"), SpoolBytes: c.spool,
		Node: c.node, Version: version, Kernel: kernelRelease(), Epoch: uint64(time.Now().UnixNano()),
		Health: a.health, OnWelcome: a.welcome, Notice: a.notice,
	})
	if err != nil {
		return err
	}
	return a.run(ctx, spec)
}

// needsRoot says plainly what a refused system call later would say badly.
func needsRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("this needs root (or, in a container, uid 0 with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE): run it with sudo")
	}
	return nil
}

func (a *agent) run(ctx context.Context, spec target.Spec) error {
	shipping, stopShipping := context.WithCancel(context.WithoutCancel(ctx))
	var shipped sync.WaitGroup
	var shipErr error
	shipped.Go(func() {
		if shipErr = a.shipper.Run(shipping); shipErr != nil && !errors.Is(shipErr, context.Canceled) {
			a.cancel(shipErr)
		}
	})
	err := a.capture(ctx, spec)
	drain, done := context.WithTimeout(context.WithoutCancel(ctx), drainLimit)
	defer done()
	if left := a.shipper.Drain(drain); left != nil {
		a.log.Info("calls are left in the spool for the next start", "reason", left)
	}
	stopShipping()
	shipped.Wait()
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// capture waits for the install key, then taps until ctx ends.
func (a *agent) capture(ctx context.Context, spec target.Spec) error {
	key, ok, err := a.decideKey(ctx)
	if err != nil || !ok {
		return err
	}
	t, err := openTap(ctx, a.config, spec, a.kin, a.log)
	if err != nil {
		return err
	}
	defer a.closeTap(t)
	memory := newMemory()
	memory.release()
	line := newPipeline(pipelineConfig{
		key: key, node: a.node, boot: bootID(), wall: bootToUnix(),
		owner: t.owner, mute: t.mute, coverage: t.account.table, emit: func(c *v1.Call) { a.shipper.Add(c) }, reuse: true,
	})
	// Whoever waits until this agent is watching means all processes, not those in which a new build is tried first.
	t.running.Go(func() {
		t.probes.Settled(ctx)
		a.tap.Store(t)
		a.shipper.Report()
		a.log.Info("watching", "socket", t.objects.Rungs()["socket"], "uprobe", t.objects.Rungs()["uprobe"], "targets", a.targets.String(), "libraries", len(t.probes.List()))
	})
	var mapping string // why the kernel does not tell of mappings, as it was last said
	var clock, counted time.Duration
	arrived := arrivals{by: map[uint64]*govern.Share{}}
	take := func(c *chunk.Chunk) {
		if c.Flags.Has(chunk.Unbound) && c.Kind == chunk.Data {
			t.unbound(c.Owner, c.Time)
		}
		arrived.add(c)
		line.chunk(c)
	}
	err = t.ring.Run(ctx, take, t.process, func(now time.Duration) {
		line.tick(now)
		if now-clock > clockEvery {
			clock, line.wall = now, bootToUnix()
		}
		if now-counted > time.Second {
			counted = now
			memory.keep()
			if why := t.watcher.MappingProblem(); why != "" && why != mapping {
				mapping = why
				a.log.Warn("libraries that are mapped later are found by looking again and again", "reason", why)
			}
			arrived.hand(t.governor)
			counts := lineCounts(t, line)
			a.line.Store(&counts)
		}
	})
	line.finish()
	counts := lineCounts(t, line)
	a.line.Store(&counts)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// welcome takes the install key that the collector hands out at each connect.
func (a *agent) welcome(key []byte, epoch uint32) {
	k := installKey{append([]byte{}, key...), epoch}
	a.keyMu.Lock()
	defer a.keyMu.Unlock()
	old, ok, err := loadKey(a.data)
	if err != nil || !ok || !old.equal(k) {
		if err := k.save(a.data); err != nil {
			a.cancel(err)
			return
		}
	}
	if a.inUse != nil && !a.inUse.equal(k) {
		a.cancel(errKeyChanged)
		return
	}
	a.keyOnce.Do(func() { a.key <- k })
}

// closeTap takes the last account of the tap before there is none to ask, and has it sent.
func (a *agent) closeTap(t *tap) {
	last := a.health()
	a.healthMu.Lock()
	a.last = last
	a.healthMu.Unlock()
	t.close()
	a.shipper.Report()
}

// decideKey picks the key for this run: the kept one, else the first Welcome's. ok is false when ctx ended before.
func (a *agent) decideKey(ctx context.Context) (k installKey, ok bool, err error) {
	a.keyMu.Lock()
	k, ok, err = loadKey(a.data)
	if ok {
		a.inUse = &k
	}
	a.keyMu.Unlock()
	if ok || err != nil {
		return k, ok, err
	}
	a.log.Info("waiting for the collector: it hands out the key that keyed hashes are made with", "collector", a.collector)
	select {
	case k = <-a.key:
	case <-ctx.Done():
		return k, false, nil
	}
	a.keyMu.Lock()
	defer a.keyMu.Unlock()
	if kept, ok, err := loadKey(a.data); err == nil && ok {
		k = kept // a second Welcome may have come meanwhile
	}
	a.inUse = &k
	return k, true, nil
}

func (a *agent) notice(err error) {
	if err == nil {
		a.log.Info("connected", "collector", a.collector)
		return
	}
	a.log.Warn("calls wait in the spool", "collector", a.collector, "reason", fmt.Sprint(err))
}
