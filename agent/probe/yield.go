package probe

import (
	"errors"
	"syscall"
	"time"

	"github.com/spile/spile/agent/target"
)

// outdated reports whether a description is of another content than the one that is attached.
func (e *entry) outdated(f target.File) bool {
	return e.at != nil && e.at.guard != nil && f.Stamp != (target.Stamp{}) && !f.Stamp.SameContent(e.at.guard.stamp)
}

// yield takes the probes out of a file at once because of a writer. The users stay: they are what brings it back. The
// caller holds the lock.
func (r *Registry) yield(e *entry) {
	guard := e.at.guard
	r.detach(e, r.urgent, func() {
		guard.admit()
		r.comeBack(e, guard)
	})
	r.failed(e, beingWritten(e.state.Path))
}

// The writer is looked after this often, and so long; later it is up to the Watcher.
const (
	firstLookAfter = 10 * time.Millisecond
	lastLookAfter  = 3 * time.Second
)

// comeBack attaches again when the writer is done, if he left what was there: a `cp` of the same version, or a file that
// was opened and not written. The Watcher brings what is new, which has another identity.
func (r *Registry) comeBack(e *entry, g *guard) {
	for pause := firstLookAfter; pause < lastLookAfter && g.unleased == ""; pause += pause / 2 {
		select {
		case <-r.stop:
			return
		case <-time.After(pause):
		}
		if g.lease() != nil {
			continue // he has it open
		}
		f, err := g.described.Again()
		g.admit()
		if !r.resume(e, err == nil) || err != nil {
			return
		}
		r.attach(e, target.Process{}, f)
		if !r.waits(e) {
			return
		}
	}
}

// resume reports whether a file that had to yield is still waiting, and if so begins to attach it. What is not the
// same any more is left to the Watcher, who is to hand it on now.
func (r *Registry) resume(e *entry, same bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.files[e.key()] != e || e.state.Phase != Failed || !e.written {
		return false
	}
	if !same {
		e.wait = 0
		return false
	}
	r.begin(e, target.Process{})
	e.tries++
	return true
}

// waits reports whether a file still has to yield.
func (r *Registry) waits(e *entry) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return e.state.Phase == Failed && e.written
}

// failed says when a file is tried again.
func (r *Registry) failed(e *entry, err error) {
	wait := r.times.Forget
	switch again := e.written; {
	case errors.Is(err, errWritten) && again:
		wait = min(max(2*e.wait, r.times.Written), r.times.Retry) // somebody keeps it open, or opens it all the time
	case errors.Is(err, errWritten):
		wait = r.times.Written
	case passing(err):
		wait = r.times.Retry
	}
	e.written, e.canary = errors.Is(err, errWritten), nil
	e.state.Phase, e.state.Reason, e.state.Unleased, e.wait, e.tried = Failed, target.OneLine(err.Error()), "", wait, r.now()
}

// yieldBroken makes way for everyone who waits to write.
func (r *Registry) yieldBroken() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.files {
		if e.at != nil && e.at.guard.broken() {
			r.yield(e)
		}
	}
}

// yieldChanged detaches what was written where no lease could prevent it. It looks without the lock, for a file system
// may not answer.
func (r *Registry) yieldChanged() {
	r.mu.Lock()
	at := make(map[*entry]*attachment, len(r.files))
	for _, e := range r.files {
		if e.at != nil {
			at[e] = e.at
		}
	}
	r.mu.Unlock()
	for e, a := range at {
		if !a.guard.changed() {
			continue
		}
		r.mu.Lock()
		if e.at == a {
			r.yield(e)
		}
		r.mu.Unlock()
	}
}

// lookLoop has a goroutine of its own: while it waits for a file system, the leases of the other files are served.
func (r *Registry) lookLoop() {
	defer close(r.looked)
	ticker := time.NewTicker(r.times.Sweep)
	defer ticker.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-ticker.C:
			r.yieldChanged()
			r.followList()
		}
	}
}

// leaseSignal is what the kernel sends when a lease is in somebody's way. It does not say which.
const leaseSignal = syscall.SIGIO
