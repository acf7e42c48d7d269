package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/spile/spile/agent/chunk"
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
	objects   *bpf.Objects
	probes    *probe.Registry
	selection *target.Selection
	watcher   *target.Watcher
	explain   *target.Explainer
	processes *origin.Cache
	ring      *source.Ring
	stop      context.CancelFunc
	running   sync.WaitGroup
	log       *slog.Logger
}

// openTap attaches to what is selected. When it returns, what runs already is covered. The product does not watch itself:
// kin are its other processes.
func openTap(ctx context.Context, c config, spec target.Spec, kin []uint32, log *slog.Logger) (_ *tap, err error) {
	t := &tap{log: log}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if t.selection, err = spec.Open(procfs); err != nil {
		return nil, err
	}
	if t.objects, err = bpf.Load(bpf.Options{
		Select:      bpf.Selector{Include: t.selection.Include, Exclude: t.selection.Exclude},
		RingBytes:   c.ringBytes,
		SocketRung:  c.hook,
		ExcludePIDs: kin,
	}); err != nil {
		return nil, err
	}
	reader, err := t.objects.Reader()
	if err != nil {
		return nil, err
	}
	t.ring = source.New(reader, t.objects)
	t.probes = probe.New(t.objects, probe.DefaultTimes())
	cache := target.NewCache(target.DefaultBudget())
	known := origin.DefaultConfig()
	known.Proc = procfs
	known.BuildID = func(pid uint32) string { return cache.BuildID(procfs, pid) }
	t.processes = origin.New(known)
	t.explain = &target.Explainer{Proc: procfs, Cache: cache, Libraries: target.Libraries(), Probe: t.probes.State}
	t.watcher = target.NewWatcher(target.Config{
		Proc: procfs, Selection: t.selection, Sink: t.probes, Cache: cache, Libraries: target.Libraries(), Reconcile: reconcile,
		SetExe: t.objects.SetExe,
	})
	if err = t.watcher.Scan(); err != nil {
		return nil, fmt.Errorf("look at what runs: %w", err)
	}
	ctx, t.stop = context.WithCancel(ctx)
	t.running.Go(func() {
		if err := t.watcher.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			log.Error("the search for programs ended: programs that start from now on may be missed; restart the agent", "error", err)
		}
	})
	return t, nil
}

// process hears of programs that begin and end.
func (t *tap) process(p source.Process) {
	switch p.Kind {
	case source.Exec:
		t.processes.Exec(p.TGID, p.Start, p.Time, p.Cgroup)
		t.watcher.Exec(p.TGID, p.Exe)
	case source.Exit:
		t.processes.Exit(p.TGID, p.Start, p.Time)
		t.watcher.Exit(p.TGID, p.Start)
	}
}

// owner fills in what is known of the process at one end.
func (t *tap) owner(o chunk.Owner, at time.Duration, peer *v1.Peer) {
	t.processes.Lookup(o, at).Fill(peer)
	peer.Process = strings.ToValidUTF8(peer.Process, "\uFFFD") // a file name is any bytes; the wire takes only UTF-8
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
	if t.selection != nil {
		t.selection.Close()
	}
}
