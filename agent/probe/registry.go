package probe

import (
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/spile/spile/agent/target"
)

// maxDetaching is how many links are let go of at once, each in a thread that waits for the kernel. With uprobe_multi 50 of
// them take 2.2 s one after another and 88 ms together. At the end of the agent it is more: 6,500 links in 500 files take
// 6.5 s by 64, 2.3 s by 256, 1.5 s by 1,024.
const (
	maxDetaching = 64
	maxClosing   = 512
)

// Registry attaches and detaches. All methods are safe for concurrent use.
type Registry struct {
	placer  placer
	slots   *slots // nil where nobody counts
	learned *learned
	denied  *denied
	times   Times
	log     *slog.Logger
	now     func() time.Time

	mu        sync.Mutex
	files     map[key]*entry
	aliases   map[target.Identity]target.Identity // another name of an inode → the one that is in files
	alone     map[target.Identity]string          // files that must not be attached for all → why
	suspended suspensions
	closed    bool
	refused   map[key]string // files that there was no room for → why
	overflow  uint64
	evicted   uint64
	counted   time.Time // when the hits were last read

	detaching sync.WaitGroup
	slotsOut  chan struct{} // room for links that are being closed
	lastOut   chan struct{} // the same at the end
	urgent    chan struct{} // the same for files that somebody waits to write, or that do harm
	moving    chan struct{} // room for files that are being taken further
	kick      chan struct{}
	breaks    chan os.Signal
	stop      chan struct{}
	late      chan struct{} // no link is closed any more
	lateOnce  sync.Once
	closing   sync.WaitGroup // links that the kernel is at
	swept     chan struct{}
	looked    chan struct{}
	advanced  chan struct{}
}

// key names an attachment: a file, and the one process it is for.
type key struct {
	id   target.Identity
	only uint32
}

type entry struct {
	state State
	build build
	owner uint32 // of the file
	users map[target.Process]struct{}
	idle  time.Time     // when the last user went
	tried time.Time     // when attaching was begun
	wait  time.Duration // from then until it is tried again, after a failure
	tries int           // which attempt it was
	at    *attachment   // what is in the kernel; nil = nothing
	// places are where in the file probes lie, or lay last.
	places []uint64

	canary   *canary   // the process that it is probed in first; nil = none, or it is over
	since    time.Time // when the probes were in wherever they belong
	base     uint64    // hits before these probes
	heard    time.Time // when the first one after that was seen; zero = there was none
	survived bool      // since then it did no harm for long enough
	stepping bool      // a step is under way
	written  bool      // it failed because of a writer
	renew    bool      // it is to be handed on again when its time has come
}

func (e *entry) key() key { return key{e.state.ID, e.state.Only} }

// New makes an empty Registry, which knows what was learned before. Close it.
func New(c Config) (*Registry, error) {
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	denied, err := newDenied(c.DataDir, log)
	if err != nil {
		return nil, err
	}
	r := &Registry{
		slots: newSlots(c.Counters), learned: newLearned(c.DataDir, log), denied: denied, times: c.Times, log: log, now: time.Now,
		files: map[key]*entry{}, aliases: map[target.Identity]target.Identity{}, alone: map[target.Identity]string{},
		refused: map[key]string{}, suspended: suspensions{},
		slotsOut: make(chan struct{}, maxDetaching), lastOut: make(chan struct{}, maxClosing), urgent: make(chan struct{}, maxDetaching), moving: make(chan struct{}, maxMoving),
		kick: make(chan struct{}, 1), breaks: make(chan os.Signal, 1),
		stop: make(chan struct{}), late: make(chan struct{}), swept: make(chan struct{}), looked: make(chan struct{}), advanced: make(chan struct{}),
	}
	r.placer.programs, r.placer.slots = c.Programs, r.slots
	signal.Notify(r.breaks, leaseSignal)
	go r.sweepLoop()
	go r.lookLoop()
	go r.advanceLoop()
	return r, nil
}

// Use says that a process maps a file, and attaches to it if nobody did before. It returns when the probes are in, and
// reports whether they are in this process.
func (r *Registry) Use(p target.Process, f target.File) bool {
	e, isNew, attached := r.enter(p, f)
	if !isNew {
		return attached
	}
	return r.attach(e, p, f)
}

// attach attaches to a file that was just entered on behalf of a process, and reports whether the probes are in there. The
// process that was to be the canary may end meanwhile; then the next one is, or nobody maps the file.
func (r *Registry) attach(e *entry, p target.Process, f target.File) bool {
	for {
		r.mu.Lock()
		try, build := e.tries, e.build
		only := e.state.Only
		if e.canary != nil {
			only = e.canary.process.PID
		}
		r.mu.Unlock()
		a, err := r.open(f, build, only)
		var lines []string
		if err == nil {
			lines = explain(a.file.Sites, a.judge(r), a.doubts(r))
		}
		attached, again := r.settle(e, p, try, a, lines, err)
		if !again {
			return attached
		}
	}
}

// settle notes what came of attaching, and reports whether the file is attached in a process, and whether it is to be
// tried again at once.
func (r *Registry) settle(e *entry, p target.Process, try int, a *attachment, lines []string, err error) (attached, again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gone := r.closed || r.files[e.key()] != e || e.tries != try || e.state.Phase != Attaching // closed, superseded, denied, ...
	switch {
	case gone && err != nil:
		return false, false
	case gone:
		r.abandon(a)
		return false, false
	case err != nil && e.canary != nil && isGone(err):
		delete(e.users, e.canary.process)
		r.begin(e, e.another(target.Process{}))
		return false, true
	case err != nil:
		r.failed(e, err)
		return false, false
	}
	e.at, e.state.Sites, e.places = a, lines, placesOf(a.file.Sites)
	if a.guard.broken() {
		r.yield(e) // he came while attaching, and nobody is told twice
		return false, false
	}
	e.state.Reason, e.state.Unleased, e.written, e.renew, e.survived = "", a.guard.reason(), false, false, false
	r.soon()
	if e.canary != nil {
		r.startCanary(e)
		return e.canary.process == p, false
	}
	r.inForce(e)
	return true, false
}

// enter notes the user, and says whether the caller is the one to attach, or else whether it is attached.
func (r *Registry) enter(p target.Process, f target.File) (e *entry, isNew, attached bool) {
	owner := ownerOf(f) // without the lock: the file system may not answer
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, false, false
	}
	k := key{r.known(f.ID, f.Only), f.Only}
	if f.Only == 0 && r.mustBeAlone(f.ID) != "" {
		return nil, false, false // it is handed on once more, for this process on its own
	}
	e, known := r.files[k]
	if !known {
		r.supersede(f.ID)
		if why := r.admits(k, owner.uid); why != "" {
			r.refuse(k, why)
			return nil, false, false
		}
		delete(r.refused, k)
		e = &entry{
			owner: owner.uid, build: buildOf(f, owner),
			state: State{ID: f.ID, Only: f.Only, Library: f.Library, Path: f.Path, BuildID: f.ID.BuildID},
			users: map[target.Process]struct{}{},
		}
		r.files[k] = e
	}
	e.users[p] = struct{}{}
	if known && e.outdated(f) {
		r.yield(e)
		e.wait, e.build = 0, buildOf(f, owner) // what is there now was just described
	}
	if r.denied.why(e.build) != "" {
		if e.state.Phase != Denied {
			r.bar(e, new(sync.WaitGroup))
		}
		return e, false, false
	}
	if r.keepOut(e) {
		return e, false, false
	}
	due := e.state.Phase == Suspended || e.state.Phase == Failed && r.now().Sub(e.tried) >= e.wait
	switch {
	case !known || due:
		r.begin(e, p)
		e.tries++
		return e, true, false
	case e.state.Phase == Draining:
		e.state.Phase = Attached
	case e.state.Phase == Canary:
		return e, false, e.canary.process == p
	}
	attached = e.state.Phase == Attached
	if attached && f.Only == 0 {
		r.endAlone(p, e.state.ID)
	}
	return e, false, attached
}

// supersede lets go at once of a file on the same inode with another build id: it was overwritten in place.
func (r *Registry) supersede(id target.Identity) {
	for old, e := range r.files {
		before := id
		before.BuildID = old.id.BuildID
		if old.id.BuildID != id.BuildID && old.id.SameInode(before) && (e.at != nil || e.written) {
			r.detach(e, r.urgent, nil)
			r.remove(old)
		}
	}
}

// Drop says that a process maps a file no more.
func (r *Registry) Drop(p target.Process, id target.Identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	own := key{id, p.PID}
	if e, ok := r.files[own]; ok && own.only != 0 {
		// What is for one process goes with it: nobody else can come back to it.
		if delete(e.users, p); len(e.users) == 0 {
			r.detach(e, r.slotsOut, nil)
			r.remove(own)
		}
	}
	e, ok := r.files[key{r.known(id, 0), 0}]
	if !ok {
		return
	}
	delete(e.users, p)
	if e.canary != nil && e.canary.process == p {
		e.canary.gone = true
		r.soon()
	}
	if len(e.users) == 0 {
		e.idle = r.now()
		if e.state.Phase == Attached {
			e.state.Phase = Draining
		}
	}
}
