package target

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spile/spile/bpf"
)

// File is a file that carries probe sites: all that attaching needs.
type File struct {
	ID      Identity
	Library string
	Path    string   // as the process names it, for people
	Handle  *os.File // nil when there is a Problem; closed when Sink.Use returns
	Sites   []Site
	Only    uint32 // the one process to probe; 0 = every process that maps the file
	Problem error  // why the file cannot be probed, for a person
	Stamp   Stamp  // of the content that was described
	origin  origin
}

// Sink is told which processes map which files. agent/probe is one.
type Sink interface {
	// Use says that a process maps a file, and reports whether it is probed. The zero Process stands for the agent,
	// which keeps what is well known.
	Use(p Process, f File) bool
	// Drop says that a process is gone, or maps the file no more. It also ends what was for this process alone.
	Drop(p Process, id Identity)
	// Stands reports whether a file is still probed, for all (only = 0) or for one process, and whether one that is not
	// is to be handed on again now: probes go at once where somebody is about to write into the file.
	Stands(id Identity, only uint32) (probed, again bool)
}

// Config is what a Watcher works with.
type Config struct {
	Proc      string // where procfs is mounted
	Selection *Selection
	Sink      Sink
	Cache     *Cache
	Libraries []Library
	// SetExe tells the kernel the verdict on an executable. Needed where the Selection judges executables.
	SetExe func(id bpf.FileID, include, exclude bool) error
	// Deny names the processes that no probe may be in; nil = none.
	Deny *Denylist
	// Alone is told which files must not be attached for all processes, and why; why = "" = they may again. Needed with Deny.
	Alone func(id Identity, why string)
	// BarredFor is how long that lasts after the last denied process; 0 = a minute.
	BarredFor time.Duration
	// Kin are processes that are not looked at, besides this one: what they map needs no probe.
	Kin []uint32
	// Reconcile is the time between two looks at all processes, at least a few seconds.
	Reconcile time.Duration
}

// Stats are counts since the start.
type Stats struct {
	Execs        uint64 // exec events taken
	ExecsDropped uint64 // exec events that found the queue full; the next reconcile finds the process
	Scans        uint64 // address spaces read
	Files        uint64 // files handed on
	FilesFailed  uint64 // files handed on with a Problem
	VerdictsLost uint64 // verdicts that the kernel did not take: those programs are not watched
	Mappings     uint64 // mappings of files with a wanted name that the kernel told of
	MappingsLost uint64 // mappings that could not be told; everything is looked at instead
	Unbound      uint64 // processes that asked for the libraries on demand
}

type counters struct {
	execs, execsDropped, scans, files, filesFailed, verdictsLost, mappings, mappingsLost, unbound atomic.Uint64
}

// Watcher finds the files. Scan and Run belong to one goroutine; the other methods may be called from any.
type Watcher struct {
	config    Config
	self      uint32
	events    chan lifeEvent
	processes map[uint32]*watched
	uses      map[Identity]int // how often each file was handed on and not dropped
	wellKnown map[Identity]bool
	verdicts  map[bpf.FileID]Verdict
	barred    map[Identity]*barred
	pending   agenda
	mapped    mapped
	counts    counters
}

type lifeEvent struct {
	pid   uint32
	kind  lifeKind
	exe   bpf.FileID // execs only
	start uint64     // ticks; exits only
}

type lifeKind uint8

const (
	execed lifeKind = iota
	exited
	unbound
)

// eventQueue bounds the execs and exits that wait; a build farm starts about 2,000 processes a second.
const eventQueue = 4096

// NewWatcher makes a Watcher that has not looked at anything yet.
func NewWatcher(c Config) *Watcher {
	return &Watcher{
		config: c, self: uint32(os.Getpid()), events: make(chan lifeEvent, eventQueue),
		processes: map[uint32]*watched{}, uses: map[Identity]int{}, wellKnown: map[Identity]bool{}, barred: map[Identity]*barred{},
		verdicts: map[bpf.FileID]Verdict{}, mapped: newMapped(),
	}
}

// Stats returns the counts.
func (w *Watcher) Stats() Stats {
	c := &w.counts
	return Stats{
		Execs: c.execs.Load(), ExecsDropped: c.execsDropped.Load(), Scans: c.scans.Load(), Files: c.files.Load(),
		FilesFailed: c.filesFailed.Load(), VerdictsLost: c.verdictsLost.Load(), Mappings: c.mappings.Load(),
		MappingsLost: c.mappingsLost.Load(), Unbound: c.unbound.Load(),
	}
}

func (w *Watcher) ours(pid uint32) bool { return pid == w.self || slices.Contains(w.config.Kin, pid) }

// Exec says that a process has a new image, which the kernel names exe (zero = unknown). It never waits.
func (w *Watcher) Exec(pid uint32, exe bpf.FileID) {
	w.counts.execs.Add(1)
	w.queue(lifeEvent{pid: pid, exe: exe})
}

// Exit says that a process ended; start is its start since boot. It never waits.
func (w *Watcher) Exit(pid uint32, start time.Duration) {
	w.queue(lifeEvent{pid: pid, kind: exited, start: uint64(start / tick)})
}

// Unbound says that a process has TLS streams whose socket is unknown: the libraries on demand that it maps are handed
// on, for this process alone. It never waits, and may be said again and again.
func (w *Watcher) Unbound(pid uint32) {
	w.queue(lifeEvent{pid: pid, kind: unbound})
}

// tick is USER_HZ, in which procfs counts: 100 a second on every architecture we build for.
const tick = 10 * time.Millisecond

func (w *Watcher) queue(e lifeEvent) {
	select {
	case w.events <- e:
	default:
		w.counts.execsDropped.Add(1)
	}
}

// Scan looks at everything there is: once, before Run, so that what runs already is covered when it returns.
func (w *Watcher) Scan() error {
	if w.config.Selection.JudgesExe() && w.config.SetExe == nil {
		return errors.New("watch processes: executables are to be judged, and nobody takes the verdicts")
	}
	for id, v := range w.config.Selection.installed {
		w.tell(id, v)
	}
	if !w.config.Deny.Empty() && w.config.Alone == nil {
		return errors.New("watch processes: some are on the denylist, and nobody takes it")
	}
	// Processes first: who maps a file decides how it is attached.
	if err := w.reconcile(); err != nil {
		return err
	}
	w.findWellKnown()
	w.lookAtDue()
	return nil
}

// Run follows execs, exits and mappings until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	w.followMaps()
	defer w.unfollowMaps()
	missed := w.mapped.missed
	w.missedMappings(0) // what was mapped between Scan and now
	var rested <-chan time.Time
	reconcile := time.NewTicker(w.config.Reconcile)
	defer reconcile.Stop()
	upgrades := time.NewTicker(upgradeEvery)
	defer upgrades.Stop()
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	for {
		due.Reset(w.pending.wait(time.Now()))
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.events:
			w.take(e, time.Now())
		case e := <-w.mapped.events:
			w.takeMapping(e, time.Now())
		case <-missed:
			if err := w.reconcile(); err != nil {
				return fmt.Errorf("watch processes: %w", err)
			}
			missed, rested = nil, time.After(rescanEvery)
		case <-rested:
			missed, rested = w.mapped.missed, nil
		case <-upgrades.C:
			w.findWellKnown()
		case <-due.C:
			w.lookAtDue()
		case <-reconcile.C:
			w.coverCPUs()
			if err := w.reconcile(); err != nil {
				return fmt.Errorf("watch processes: %w", err)
			}
		}
	}
}

// upgradeEvery is the time between two looks at what is installed. A process that maps a new file tells of it itself.
const upgradeEvery = 30 * time.Second

func (w *Watcher) take(e lifeEvent, now time.Time) {
	switch e.kind {
	case exited:
		if p, ok := w.processes[e.pid]; ok && p.Start == e.start {
			w.forget(p)
		}
	case unbound:
		w.demand(e.pid)
	default:
		w.look(e.pid, true, e.exe)
		w.pending.add(e.pid, now, retries(w.mapped.perf.Load()))
	}
}

// reconcile finds what events did not tell: forks, dlopen, lost events, and processes that are gone.
func (w *Watcher) reconcile() error {
	pids, err := allPIDs(w.config.Proc)
	if err != nil {
		return err
	}
	there := make(map[uint32]bool, len(pids))
	for _, pid := range pids {
		there[pid] = true
		w.look(pid, false, bpf.FileID{})
	}
	for pid, p := range w.processes {
		if !there[pid] {
			w.forget(p)
		}
	}
	w.unbarDue(time.Now())
	return nil
}

// findWellKnown hands on the libraries of this root, so that even a program that runs for 10 ms is covered. What was
// replaced by an upgrade is let go.
func (w *Watcher) findWellKnown() {
	seen := map[Identity]bool{}
	wellKnown(w.config.Libraries, func(lib Library, path string) { w.handOnPath(lib, path, seen) })
	for id := range w.wellKnown {
		if !seen[id] {
			w.release(Process{}, id)
		}
	}
	w.wellKnown = seen
}
