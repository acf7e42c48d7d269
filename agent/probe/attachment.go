package probe

import (
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf/link"

	"github.com/spile/spile/agent/target"
)

// attachment is what is in the kernel for a file, and what keeps writers out of it meanwhile. Its parts change while it
// lasts: from one process to all, and from sure places to cheaper ones. The Registry's lock guards its fields.
type attachment struct {
	file   target.File // Handle is the guard's
	build  build
	guard  *guard
	only   uint32 // the process that the parts are in; 0 = all
	parts  []*part
	checks map[target.Place]*tally // of inner places that are undecided
	again  time.Time               // when an inner place that disagreed is tried again; zero = never
	// moving is what is just being put in or taken out: a writer has to wait for it too.
	moving sync.WaitGroup
}

// open keeps writers out of a file, makes sure that it is still what was described, and attaches to it. In this order
// nobody can put other instructions under the probes.
func (r *Registry) open(f target.File, b build, only uint32) (*attachment, error) {
	if f.Problem != nil {
		return nil, f.Problem
	}
	a := &attachment{file: f, build: b, only: only, checks: map[target.Place]*tally{}}
	if f.Handle != nil {
		g, err := newGuard(f)
		if err != nil {
			return nil, err
		}
		a.guard, a.file = g, g.described
	}
	var err error
	if a.parts, err = r.placer.put(a.file, a.plan(r), only); err != nil && !isGone(err) && a.inside(r) {
		// What lies at the sure places is known to be good, whatever is wrong inside.
		a.parts, err = r.placer.put(a.file, plan(a.file.Sites, func(*target.Place) verdict { return disagreed }), only)
	}
	if err != nil {
		a.guard.release()
		return nil, err
	}
	if a.guard.changed() { // without a lease it may have been, meanwhile
		r.closeAll(a.parts, r.slotsOut)
		a.guard.release()
		return nil, beingWritten(f.Path)
	}
	a.again = r.plansAgain(a)
	return a, nil
}

func (a *attachment) judge(r *Registry) judge {
	return func(p *target.Place) verdict { return r.learned.inner(a.build, p) }
}

// doubts says why inner places are not used.
func (a *attachment) doubts(r *Registry) func(*target.Place) string {
	return func(p *target.Place) string {
		if d, is := r.learned.doubted(a.build, p); is {
			return ", " + d.String()
		}
		return ""
	}
}

func (a *attachment) plan(r *Registry) []placement { return plan(a.file.Sites, a.judge(r)) }

// inside reports whether probes are to go to an inner place.
func (a *attachment) inside(r *Registry) bool {
	return slices.ContainsFunc(a.plan(r), func(p placement) bool { return p.role == inner })
}

// move puts more parts in beside those that are there, and then takes some of those out: nothing is lost in between, and
// the programs see to it that nothing is doubled. keep says which of the old parts stay. It reports whether the attachment
// was still in force when it was done. The caller does not hold the lock.
func (r *Registry) move(e *entry, a *attachment, plan []placement, only uint32, keep func(*part) bool) (bool, error) {
	r.mu.Lock()
	if r.closed || e.at != a {
		r.mu.Unlock()
		return false, nil
	}
	a.moving.Add(1)
	r.mu.Unlock()
	defer a.moving.Done()
	parts, err := r.placer.put(a.file, plan, only)
	if err != nil {
		return true, err
	}
	r.mu.Lock()
	if e.at != a {
		r.mu.Unlock()
		r.closeAll(parts, r.slotsOut) // before moving is done: whoever wants to write waits for it
		return false, nil
	}
	defer r.mu.Unlock()
	var old []*part
	a.parts = slices.DeleteFunc(a.parts, func(p *part) bool {
		stays := keep(p)
		if !stays {
			old = append(old, p)
		}
		return !stays
	})
	a.parts, a.only = append(a.parts, parts...), only
	r.retire(a, old, false)
	return true, nil
}

// retire takes parts of an attachment out without waiting; last says that calls which began there have no other probe at
// their end. The caller holds the lock.
func (r *Registry) retire(a *attachment, parts []*part, last bool) {
	if len(parts) == 0 {
		return
	}
	a.moving.Add(1)
	r.detaching.Add(1)
	go func() {
		defer r.detaching.Done()
		defer a.moving.Done()
		r.closeAll(parts, r.slotsOut)
		if last {
			r.forget(a)
		}
	}()
}

// retireDue takes out what stayed for a while only.
func (r *Registry) retireDue(a *attachment, now time.Time) {
	var due []*part
	a.parts = slices.DeleteFunc(a.parts, func(p *part) bool {
		over := !p.until.IsZero() && !now.Before(p.until)
		if over {
			due = append(due, p)
		}
		return over
	})
	r.retire(a, due, true)
}

// forget drops the calls of a file that nobody will see end.
func (r *Registry) forget(a *attachment) {
	if err := r.slots.forget(a.file.ID); err != nil {
		r.log.Warn("calls that were under way when probes were taken out stay known: plain connections of their threads may stay unseen", "library", a.file.Path, "reason", err)
	}
}

// lastReturns is how long the probes of returns outlive those of entries: most calls end in it.
const lastReturns = 100 * time.Millisecond

// closeAll closes the links of parts, entries before returns and else all at once as far as there is room, and returns when
// they are out.
func (r *Registry) closeAll(parts []*part, room chan struct{}) {
	var entries, returns []link.Link
	for _, p := range parts {
		if p.returns() {
			returns = append(returns, p.links...)
		} else {
			entries = append(entries, p.links...)
		}
	}
	r.closeLinks(entries, room)
	if len(entries) > 0 && len(returns) > 0 {
		select {
		case <-time.After(lastReturns):
		case <-r.late:
		}
	}
	r.closeLinks(returns, room)
	for _, p := range parts {
		r.slots.give(p.slots)
	}
}

func (r *Registry) closeLinks(links []link.Link, room chan struct{}) {
	var out sync.WaitGroup
	for _, l := range links {
		out.Go(func() { r.closeIn(room, l) })
	}
	out.Wait()
}

func (r *Registry) closeIn(room chan struct{}, l link.Link) {
	select {
	case room <- struct{}{}:
	case <-r.stop: // what was let go of before must not hold up the end
		room = r.lastOut
		select {
		case room <- struct{}{}:
		case <-r.late:
			return
		}
	}
	defer func() { <-room }()
	r.closing.Add(1)
	defer r.closing.Done()
	select {
	case <-r.late: // after closing was raised: whoever waits for that sees all that is begun
		return
	default:
	}
	// A close of a descriptor that we own can only fail after it took effect.
	_ = l.Close()
}
