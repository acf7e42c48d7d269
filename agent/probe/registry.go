package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf/link"

	"github.com/spile/spile/agent/target"
)

// Phase is where a file is in its life.
type Phase string

const (
	Attaching Phase = "attaching"
	Attached  Phase = "attached"
	Failed    Phase = "failed"
	Draining  Phase = "draining"
)

// State is one file, for health reports.
type State struct {
	ID        target.Identity
	Only      uint32 // the one process that is probed; 0 = every process that maps the file
	Library   string
	Path      string
	BuildID   string
	Phase     Phase
	Reason    string // why it failed and what to do; "" otherwise
	Processes int    // that map it now
	Sites     int
	Unleased  string // why an attached file is only looked at now and then for writes; "" = a lease makes writers wait
}

// Times are how long things last.
type Times struct {
	Grace  time.Duration // from the last Drop to detaching
	Forget time.Duration // until a file that failed is tried again
	Retry  time.Duration // the same, where the host was only short of something
	// Written is the same where somebody was writing into the file; twice as long each time he still is, up to Retry.
	Written time.Duration
	Sweep   time.Duration // between two looks at what is over, and at what was written
}

// DefaultTimes keeps a library attached between two runs of a cron job or a rolling restart.
func DefaultTimes() Times {
	return Times{Grace: 30 * time.Second, Forget: 10 * time.Minute, Retry: 20 * time.Second, Written: time.Second, Sweep: time.Second}
}

// maxDetaching is how many files are let go of at once. With uprobe_multi 50 links take 2.2 s one after another
// and 88 ms together.
const maxDetaching = 64

// Registry attaches and detaches. All methods are safe for concurrent use.
type Registry struct {
	programs Programs
	times    Times
	now      func() time.Time

	mu       sync.Mutex
	files    map[key]*entry
	aliases  map[target.Identity]target.Identity // another name of an inode → the one that is in files
	closed   bool
	refused  map[key]string // files that there was no room for → why
	overflow uint64
	evicted  uint64

	detaching sync.WaitGroup
	slots     chan struct{}
	urgent    chan struct{} // the same for files that somebody waits to write
	breaks    chan os.Signal
	stop      chan struct{}
	swept     chan struct{}
	looked    chan struct{}
}

// key names an attachment: a file, and the one process it is for.
type key struct {
	id   target.Identity
	only uint32
}

type entry struct {
	state State
	owner uint32 // of the file
	users map[target.Process]struct{}
	idle  time.Time     // when the last user went
	tried time.Time     // when attaching was begun
	wait  time.Duration // from then until it is tried again, after a failure
	links []link.Link
	guard *guard // with the links
	// written: it failed because of a writer
	written bool
}

func (e *entry) key() key { return key{e.state.ID, e.state.Only} }

// New makes an empty Registry. Close it.
func New(programs Programs, times Times) *Registry {
	r := &Registry{
		programs: programs, times: times, now: time.Now, files: map[key]*entry{}, aliases: map[target.Identity]target.Identity{}, refused: map[key]string{},
		slots: make(chan struct{}, maxDetaching), urgent: make(chan struct{}, maxDetaching), breaks: make(chan os.Signal, 1),
		stop: make(chan struct{}), swept: make(chan struct{}), looked: make(chan struct{}),
	}
	signal.Notify(r.breaks, leaseSignal)
	go r.sweepLoop()
	go r.lookLoop()
	return r
}

// Use says that a process maps a file, and attaches to it if nobody did before. It returns when the probes are in, and
// reports whether they are.
func (r *Registry) Use(p target.Process, f target.File) bool {
	e, isNew, attached := r.enter(p, f)
	if !isNew {
		return attached
	}
	links, guard, err := guarded(r.programs, f)
	return r.settle(e, links, guard, err)
}

// settle notes what came of attaching, and reports whether the file is attached.
func (r *Registry) settle(e *entry, links []link.Link, guard *guard, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	gone := r.closed || r.files[e.key()] != e // closed, superseded or dropped while attaching
	if err != nil {
		if !gone {
			r.failed(e, err)
		}
		return false
	}
	e.links, e.guard = links, guard
	switch {
	case gone:
		r.detach(e, r.slots, nil)
		return false
	case guard.broken():
		r.yield(e) // he came while attaching, and nobody is told twice
		return false
	}
	e.state.Phase, e.state.Reason, e.state.Unleased, e.written = Attached, "", guard.unleased, false
	if len(e.users) == 0 {
		e.state.Phase = Draining
	}
	return true
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
	if e, ok := r.files[k]; ok {
		e.users[p] = struct{}{}
		if e.outdated(f) {
			r.yield(e)
			e.wait = 0 // what is there now was just described
		}
		if e.state.Phase == Failed && r.now().Sub(e.tried) >= e.wait {
			e.state.Phase, e.tried, e.state.Sites = Attaching, r.now(), len(f.Sites)
			return e, true, false
		}
		if e.state.Phase == Draining {
			e.state.Phase = Attached
		}
		return e, false, e.state.Phase == Attached
	}
	r.supersede(f.ID)
	if why := r.admits(k, owner); why != "" {
		r.refuse(k, why)
		return nil, false, false
	}
	delete(r.refused, k)
	e = &entry{
		owner: owner,
		state: State{
			ID: f.ID, Only: f.Only, Library: f.Library, Path: f.Path, BuildID: f.ID.BuildID, Phase: Attaching, Sites: len(f.Sites),
		},
		users: map[target.Process]struct{}{p: {}}, tried: r.now(),
	}
	r.files[k] = e
	return e, true, false
}

// supersede lets go at once of a file on the same inode with another build id: it was overwritten in place.
func (r *Registry) supersede(id target.Identity) {
	for old, e := range r.files {
		before := id
		before.BuildID = old.id.BuildID
		if old.id.BuildID != id.BuildID && old.id.SameInode(before) && (e.links != nil || e.written) {
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
			r.detach(e, r.slots, nil)
			r.remove(own)
		}
	}
	e, ok := r.files[key{r.known(id, 0), 0}]
	if !ok {
		return
	}
	delete(e.users, p)
	if len(e.users) == 0 {
		e.idle = r.now()
		if e.state.Phase == Attached {
			e.state.Phase = Draining
		}
	}
}

// List returns every file, by path.
func (r *Registry) List() []State {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]State, 0, len(r.files))
	for _, e := range r.files {
		s := e.state
		s.Processes = len(e.users)
		if _, own := e.users[target.Process{}]; own {
			s.Processes--
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b State) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.ID.Ino, b.ID.Ino), cmp.Compare(a.ID.Dev, b.ID.Dev), cmp.Compare(a.Only, b.Only))
	})
	return list
}

// State says what became of a file; it has the shape of target.ProbeState.
func (r *Registry) State(id target.Identity) (known, attached bool, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := key{r.known(id, 0), 0}
	e, ok := r.files[k]
	if !ok {
		why, refused := r.refused[k]
		return refused, false, why
	}
	switch e.state.Phase {
	case Attached, Draining:
		return true, true, ""
	case Attaching:
		return true, false, "it is being attached"
	}
	return true, false, e.state.Reason
}

func (r *Registry) sweepLoop() {
	defer close(r.swept)
	ticker := time.NewTicker(r.times.Sweep)
	defer ticker.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-r.breaks:
			r.yieldBroken()
		case <-ticker.C:
			r.yieldBroken()
			r.sweep()
		}
	}
}

func (r *Registry) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	for k, e := range r.files {
		if len(e.users) > 0 {
			continue
		}
		idle, soon := now.Sub(e.idle), e.state.Phase == Draining || e.written
		if soon && idle >= r.times.Grace || e.state.Phase == Failed && idle >= r.times.Forget {
			r.detach(e, r.slots, nil)
			r.remove(k)
		}
	}
}

// detach closes the links of a file without waiting. When they are out it calls then, if there is one, and lets writers
// in. The caller holds the lock, so that Close sees every detach begun.
func (r *Registry) detach(e *entry, slots chan struct{}, then func()) {
	links, guard := e.links, e.guard
	e.links, e.guard = nil, nil
	if links == nil && guard == nil {
		return
	}
	r.detaching.Add(1)
	var out sync.WaitGroup
	for _, l := range links {
		out.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			// A close of a descriptor that we own can only fail after it took effect.
			_ = l.Close()
		})
	}
	go func() {
		defer r.detaching.Done()
		out.Wait()
		if then != nil {
			then()
		}
		guard.release()
	}()
}

// ErrLeft says that probes were still being detached when time ran out. They go when the process ends.
var ErrLeft = errors.New("detaching took too long; the rest goes with the process")

// Close detaches everything, for as long as ctx allows.
func (r *Registry) Close(ctx context.Context) error {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		signal.Stop(r.breaks)
		close(r.stop)
	}
	n := len(r.files)
	for k, e := range r.files {
		r.detach(e, r.slots, nil)
		r.remove(k)
	}
	r.mu.Unlock()
	<-r.swept
	done := make(chan struct{})
	go func() {
		<-r.looked
		r.detaching.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("detach %d files: %w", n, ErrLeft)
	}
}
