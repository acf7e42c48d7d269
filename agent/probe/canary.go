package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
)

// canaryHits is how many hits of a new build say that it bears probes, and canaryLeast how long it is watched at least:
// what crashes does so at the next instructions, and the kernel tells of it within milliseconds.
const (
	canaryHits  = 16
	canaryLeast = 200 * time.Millisecond
)

// canary is the one process in which a new build is probed first.
type canary struct {
	process target.Process
	since   time.Time // when it was attached
	base    uint64    // hits of the file before that
	first   time.Time // when the first hit after that was seen; zero = there was none
	gone    bool
}

// unheard says why an attached build is not known to be harmless.
const unheard = "no call of it was seen so far: that it bears probes is not shown yet"

// begin says that a file is about to be attached on behalf of a process, and returns in which process that is to be: 0 =
// in all. A file that nobody has mapped has nobody to begin with; who comes first is seen from his first call. The
// caller holds the lock.
func (r *Registry) begin(e *entry, p target.Process) (only uint32) {
	e.state.Phase, e.state.Reason, e.tried, e.canary = Attaching, "", r.now(), nil
	e.base, _ = r.slots.figures(e.state.ID)
	e.heard = time.Time{}
	if e.state.Only != 0 {
		return e.state.Only
	}
	if r.times.Canary <= 0 || r.learned.survived(e.build) {
		return 0
	}
	if p == (target.Process{}) {
		p = e.another(p)
	}
	if p == (target.Process{}) {
		return 0
	}
	e.canary = &canary{process: p}
	return p.PID
}

// another is a process that maps the file, besides one.
func (e *entry) another(than target.Process) target.Process {
	for p := range e.users {
		if p != than && p != (target.Process{}) {
			return p
		}
	}
	return target.Process{}
}

// startCanary says that the probes are in. The caller holds the lock.
func (r *Registry) startCanary(e *entry) {
	c := e.canary
	c.since, c.gone = r.now(), false
	c.base, _ = r.slots.figures(e.state.ID)
	if _, there := e.users[c.process]; !there {
		c.gone = true // meanwhile
	}
	e.state.Phase = Canary
	e.state.Reason = fmt.Sprintf("a build that is new here is probed in one process first, to see that it does no harm: in process %d; all others follow within %v",
		c.process.PID, max(r.times.Canary, canaryLeast))
}

// endCanary decides about a canary: it goes on in all processes once it was watched for long enough or has ended, or in
// the next one that maps the file. What crashes of probes does so when they are hit, so that a canary is watched from its
// first hit. One that makes no call shows nothing, and all others follow nevertheless, since their calls are not seen
// meanwhile; that nothing is shown stays with the file (unheard), and is reported.
func (r *Registry) endCanary(e *entry, a *attachment) (silent bool) {
	r.mu.Lock()
	c := e.canary
	if e.at != a || c == nil {
		r.mu.Unlock()
		return false
	}
	now := r.now()
	hits, _ := r.slots.figures(e.state.ID)
	if hits > c.base && c.first.IsZero() {
		c.first = now
	}
	over := now.Sub(c.since) >= r.times.Canary
	enough := over && c.first.IsZero() || !c.first.IsZero() && now.Sub(c.first) >= canaryLeast && (over || hits-c.base >= canaryHits)
	next := target.Process{}
	if c.gone && !enough {
		next = e.another(c.process)
	}
	r.mu.Unlock()
	if !enough && !c.gone {
		return false
	}
	inForce, err := r.move(e, a, a.plan(r), next.PID, func(*part) bool { return false })
	r.mu.Lock()
	defer r.mu.Unlock()
	if !inForce || e.at != a {
		return false
	}
	switch {
	case err != nil && next.PID != 0 && isGone(err):
		delete(e.users, next) // it is told to be gone soon; the next look takes another
	case err != nil:
		r.detach(e, r.slotsOut, nil)
		r.failed(e, err)
	case next.PID != 0:
		e.canary = &canary{process: next}
		r.startCanary(e)
	default:
		r.inForce(e)
		return r.isUnheard(e)
	}
	return false
}

func isGone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist) }

// inForce says that the probes are in wherever they belong. The caller holds the lock.
func (r *Registry) inForce(e *entry) {
	e.canary, e.since = nil, r.now()
	e.state.Phase, e.state.Reason = Attached, ""
	r.listen(e)
	if len(e.users) == 0 {
		e.state.Phase, e.idle = Draining, r.now()
	}
	if e.state.Only == 0 {
		for p := range e.users {
			r.endAlone(p, e.state.ID)
		}
	}
}

// endAlone lets go of what is attached to one process on its own, now that the same file is attached for all.
func (r *Registry) endAlone(p target.Process, id target.Identity) {
	own := key{id, p.PID}
	if e, ok := r.files[own]; ok && own.only != 0 {
		r.detach(e, r.slotsOut, nil)
		r.remove(own)
	}
}

// listen notes the first hit of a file, from which on it is watched until it counts as harmless. Where nobody counts hits,
// that is when it was attached. The caller holds the lock.
func (r *Registry) listen(e *entry) {
	switch hits, _ := r.slots.figures(e.state.ID); {
	case !e.lasts() || !e.heard.IsZero():
	case !r.hears():
		e.heard = e.since
	case hits > e.base:
		e.heard = r.now()
	}
}

// hears reports whether hits are counted by file.
func (r *Registry) hears() bool { return r.slots != nil && !r.placer.cookieless.Load() }

// isHarmless reports whether a file was watched for long enough since its first hit. The caller holds the lock.
func (r *Registry) isHarmless(e *entry) bool {
	if !e.lasts() || e.heard.IsZero() || r.now().Sub(e.heard) < r.times.Survive {
		return false
	}
	hits, _ := r.slots.figures(e.state.ID)
	return !r.hears() || hits-e.base >= canaryHits
}

// isUnheard reports whether an attached file is in use, and nothing is known of how its build bears probes.
func (r *Registry) isUnheard(e *entry) bool {
	return e.lasts() && e.heard.IsZero() && !r.learned.survived(e.build)
}

// survive remembers of a build that it did no harm.
func (r *Registry) survive(e *entry, a *attachment) {
	r.mu.Lock()
	due := e.at == a && !e.survived && r.isHarmless(e)
	if due {
		e.survived = true
	}
	r.mu.Unlock()
	if due {
		r.learned.harmless(a.build)
	}
}

// lasts reports whether the probes are in wherever they belong.
func (e *entry) lasts() bool { return e.state.Phase == Attached || e.state.Phase == Draining }
