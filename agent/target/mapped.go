package target

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/bpf"
)

// The rungs of finding a library that is mapped.
const (
	MappedByPerf = "perf" // the kernel tells of each mapping as it is made
	MappedByPoll = "poll" // programs are looked at 5 ms, 50 ms, 300 ms and 1 s after they start, and then now and then
)

// mappings reads the rings of all processors. It has one goroutine, which Close ends.
type mappings struct {
	wanted  func(base []byte) bool
	found   func(mapEvent) // must not wait
	lost    func(uint64)
	epoll   int
	wake    int // an eventfd that ends the goroutine
	rings   map[int]*mapRing
	mu      sync.Mutex // guards rings
	reading sync.WaitGroup
}

// followMappings begins to tell of the mappings that are made from now on.
func followMappings(wanted func(base []byte) bool, found func(mapEvent), lost func(uint64)) (*mappings, error) {
	m := &mappings{wanted: wanted, found: found, lost: lost, epoll: -1, wake: -1, rings: map[int]*mapRing{}}
	var err error
	if m.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		m.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err == nil {
		err = m.watch(m.wake)
	}
	if err == nil {
		err = m.cover()
	}
	if err != nil {
		m.release()
		return nil, err
	}
	m.reading.Go(m.readAll)
	return m, nil
}

// cover opens a ring for every processor that has none yet: processors may be added while the agent runs.
func (m *mappings) cover() error {
	cpus, err := onlineCPUs()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, cpu := range cpus {
		if m.rings[cpu] != nil {
			continue
		}
		r, err := openMapRing(cpu)
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
			continue // it went off meanwhile
		}
		if err != nil {
			return noMapEvents(err)
		}
		if err := m.watch(r.fd); err != nil {
			r.close()
			return err
		}
		m.rings[cpu] = r
	}
	return nil
}

func (m *mappings) watch(fd int) error {
	err := unix.EpollCtl(m.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	if err != nil {
		return noMapEvents(err)
	}
	return nil
}

// noMapEvents says in one line why there are none and what to do.
func noMapEvents(err error) error {
	why, remedy := "the kernel says: "+Innermost(err), "restart the agent"
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		why, remedy = "the kernel does not show this agent which files are mapped", "give it CAP_PERFMON, and let seccomp pass perf_event_open"
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		why, remedy = "this kernel has no software perf events", "use one built with CONFIG_PERF_EVENTS"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		why, remedy = "too many files are open", "raise LimitNOFILE of the agent"
	case errors.Is(err, unix.ENOMEM):
		why, remedy = "there is no memory for their rings", "raise the memory limit of the agent"
	}
	return fmt.Errorf("%w: %s; %s", ErrNoMapEvents, why, remedy)
}

// linger is the time between two looks at the rings while they fill. A host that starts thousands of programs a second
// maps tens of thousands of files; the first look after a quiet time is not delayed.
const linger = 2 * time.Millisecond

func (m *mappings) readAll() {
	ready := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(m.epoll, ready, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		for _, e := range ready[:max(n, 0)] {
			if int(e.Fd) == m.wake {
				return
			}
		}
		m.drain()
		time.Sleep(linger)
	}
}

func (m *mappings) drain() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.rings {
		r.read(func(record []byte) {
			e, ok, lost := parseRecord(record, m.wanted)
			if lost > 0 {
				m.lost(lost)
			}
			if ok {
				m.found(e)
			}
		})
	}
}

// Close ends the goroutine and gives everything back.
func (m *mappings) Close() {
	one := binary.NativeEndian.AppendUint64(nil, 1)
	unix.Write(m.wake, one)
	m.reading.Wait()
	m.release()
}

func (m *mappings) release() {
	for _, r := range m.rings {
		r.close()
	}
	for _, fd := range []int{m.wake, m.epoll} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// mapped is what the Watcher knows of mappings. Apart from the channels it belongs to the Watcher's goroutine.
type mapped struct {
	open   func(wanted func([]byte) bool, found func(mapEvent), lost func(uint64)) (*mappings, error)
	events chan mapEvent
	missed chan struct{}       // something was not told: look at everything
	known  map[mapKey]Identity // files that are probed, by the kernel's name
	asking map[uint32]bool     // processes that map what stands beside a library on demand
	follow *mappings           // nil: the kernel does not tell
	perf   atomic.Bool         // it does
	why    atomic.Pointer[string]
}

const (
	// mapQueue bounds the mappings of wanted files that wait.
	mapQueue = 1024
	// maxKnownMapped bounds the memory of what is probed; beyond it everything is looked up again.
	maxKnownMapped = 4096
	// again is the shortest time between two readings of one address space on account of its mappings.
	again = 5 * time.Millisecond
	// settled is when a new user of a file that is probed already is written down. There is no hurry.
	settled = 20 * time.Millisecond
	// rescanEvery bounds the looks at everything that follow lost records.
	rescanEvery = time.Second
)

func newMapped() mapped {
	return mapped{open: followMappings, events: make(chan mapEvent, mapQueue), missed: make(chan struct{}, 1), known: map[mapKey]Identity{}, asking: map[uint32]bool{}}
}

// followMaps asks the kernel to tell of mappings, and remembers why where it does not.
func (w *Watcher) followMaps() {
	follow, err := w.mapped.open(wantedNames(w.config.Libraries), w.queueMapping, w.missedMappings)
	if err != nil {
		w.byPoll(err)
		return
	}
	w.mapped.follow = follow
	w.mapped.perf.Store(true)
}

func (w *Watcher) byPoll(why error) {
	text := why.Error()
	w.mapped.why.Store(&text)
	w.mapped.perf.Store(false)
}

func (w *Watcher) unfollowMaps() {
	if w.mapped.follow != nil {
		w.mapped.follow.Close()
		w.mapped.follow = nil
	}
	w.mapped.perf.Store(false)
}

// coverCPUs follows processors that were added.
func (w *Watcher) coverCPUs() {
	if w.mapped.follow == nil {
		return
	}
	if err := w.mapped.follow.cover(); err != nil {
		w.byPoll(err)
	}
}

func (w *Watcher) queueMapping(e mapEvent) {
	if w.ours(e.pid) {
		return
	}
	w.counts.mappings.Add(1)
	select {
	case w.mapped.events <- e:
	default:
		w.missedMappings(1)
	}
}

func (w *Watcher) missedMappings(n uint64) {
	w.counts.mappingsLost.Add(n)
	select {
	case w.mapped.missed <- struct{}{}:
	default:
	}
}

// takeMapping looks at a process that has just mapped a wanted file: now, if nobody probes the file yet.
func (w *Watcher) takeMapping(e mapEvent, now time.Time) {
	for _, lib := range w.config.Libraries {
		switch {
		case !lib.OnDemand:
		case lib.besides(e.name):
			w.mapped.asks(e.pid)
			w.lookAgain(e.pid)
			return
		case lib.named(e.name):
			// Of interest only to a process that maps what asks for it, before or after.
			if w.mapped.asking[e.pid] {
				w.lookAgain(e.pid)
			}
			return
		}
	}
	if id, ok := w.mapped.known[e.file]; ok && w.uses[id] > 0 && w.stands(id) && !w.mayBeDenied(e.pid) {
		w.pending.once(e.pid, now.Add(settled))
		return
	}
	if p, ok := w.processes[e.pid]; ok {
		if now.Sub(p.read) < again {
			w.pending.once(e.pid, now.Add(again))
			return
		}
		p.space = nil
	}
	w.look(e.pid, false, bpf.FileID{})
	p, ok := w.processes[e.pid]
	if !ok {
		return
	}
	if id, ok := p.probed(e); ok {
		if len(w.mapped.known) >= maxKnownMapped {
			clear(w.mapped.known)
		}
		w.mapped.known[e.file] = id
	}
}

// maxAsking bounds the memory of which processes ask; whoever is forgotten is found by his unbound streams.
const maxAsking = 1024

func (m *mapped) asks(pid uint32) {
	if len(m.asking) >= maxAsking {
		clear(m.asking)
	}
	m.asking[pid] = true
}

// lookAgain reads a process now, whatever was read of it before.
func (w *Watcher) lookAgain(pid uint32) {
	if p, ok := w.processes[pid]; ok {
		p.space = nil
	}
	w.look(pid, false, bpf.FileID{})
}

// probed finds the file of an event among those of the process that are probed wherever they are mapped.
func (p *watched) probed(e mapEvent) (Identity, bool) {
	if h := p.files[bpf.FileID{Dev: e.file.dev, Ino: e.file.ino}]; h.probed && h.only == 0 {
		return h.id, true
	}
	// On overlayfs the two places may name two inodes.
	for _, h := range p.files {
		if h.probed && h.only == 0 && path.Base(h.path) == path.Base(e.name) {
			return h.id, true
		}
	}
	return Identity{}, false
}

// MappingRung says how a library that is mapped is found: MappedByPerf or MappedByPoll.
func (w *Watcher) MappingRung() string {
	if w.mapped.perf.Load() {
		return MappedByPerf
	}
	return MappedByPoll
}

// MappingProblem says why the kernel does not tell of mappings, and what to do, in one line; "" where it does.
func (w *Watcher) MappingProblem() string {
	if why := w.mapped.why.Load(); why != nil {
		return *why
	}
	return ""
}
