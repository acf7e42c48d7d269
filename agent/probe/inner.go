package probe

import (
	"fmt"
	"slices"
	"time"

	"github.com/spile/spile/agent/target"
)

// How many calls have to show at an inner place what they showed at the entry of their function. Where one shows something
// else, more of them are looked at: a call inside another (TLS in TLS, a callback that reads) comes to the inner place alone.
// One in tolerated may be such a call.
const (
	enoughChecks = 16
	moreChecks   = 128
	tolerated    = 16
)

// tally is what the checks of an inner place said when it was first looked at. What was counted before is not held against
// it: a call that began before the probe at the entry was in comes to the inner place alone.
type tally struct {
	agree, disagree uint64
}

// undecided lists the inner places of an attachment that are being verified, with the slot that counts. The caller holds
// the lock.
func (a *attachment) undecided() map[target.Place]uint32 {
	var list map[target.Place]uint32
	for _, p := range a.parts {
		if p.role == check && p.slots[0] != 0 {
			if list == nil {
				list = map[target.Place]uint32{}
			}
			list[p.group] = p.slots[0]
		}
	}
	return list
}

// verify looks at the checks, and moves the probes of those functions whose inner place is proven. Reads and writes are
// decided on their own: a program may do only one of them.
func (r *Registry) verify(e *entry, a *attachment) {
	r.mu.Lock()
	groups := a.undecided()
	r.mu.Unlock()
	for group, slot := range groups {
		v, why := r.learned.inner(a.build, &group), "" // another file of the same build may have come first
		if v == undecided {
			v, why = r.tally(a, group, slot)
		}
		switch v {
		case agreed:
			r.moveInside(e, a, group)
		case disagreed:
			if why != "" {
				r.log.Warn("a cheaper place for probes is not used: other calls were seen there", "library", a.file.Path, "place", group.Name, "reason", why)
				r.learned.refuse(a.build, &group, why)
			}
			r.stay(e, a, group)
		}
	}
}

// tally compares the checks with what they were at the first look.
func (r *Registry) tally(a *attachment, group target.Place, slot uint32) (v verdict, why string) {
	agree, disagree, err := r.slots.checks(slot)
	if err != nil {
		r.log.Warn("the checks of a cheaper place for probes cannot be read", "library", a.file.Path, "reason", err)
		return undecided, ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := a.checks[group]
	if t == nil {
		a.checks[group] = &tally{agree: agree, disagree: disagree}
		return undecided, ""
	}
	agree, disagree = agree-t.agree, disagree-t.disagree
	switch all := agree + disagree; {
	case disagree == 0 && agree >= enoughChecks, all >= moreChecks && disagree*tolerated <= all:
		return agreed, ""
	case all >= moreChecks:
		return disagreed, fmt.Sprintf("%d of %d", disagree, all)
	}
	return undecided, ""
}

// recheck verifies inner places once more that disagreed. All is put in anew, so that what may give way is on its own again.
func (r *Registry) recheck(e *entry, a *attachment) {
	r.mu.Lock()
	due := e.at == a && a.rechecks(r.now())
	if due {
		a.again = time.Time{}
	}
	only := a.only
	r.mu.Unlock()
	if !due {
		return
	}
	if _, err := r.move(e, a, a.plan(r), only, func(p *part) bool { return !p.until.IsZero() }); err != nil {
		r.log.Warn("a cheaper place for probes is not verified again", "library", a.file.Path, "reason", err)
		return
	}
	r.describe(e, a)
}

// rechecks reports whether it is time for that. The caller holds the Registry's lock.
func (a *attachment) rechecks(now time.Time) bool { return !a.again.IsZero() && !now.Before(a.again) }

// plansAgain notes when an inner place that disagreed is tried again.
func (r *Registry) plansAgain(a *attachment) (first time.Time) {
	for _, s := range a.file.Sites {
		if s.Inner == nil || r.learned.inner(a.build, s.Inner) != disagreed {
			continue
		}
		if d, is := r.learned.doubted(a.build, s.Inner); is && d.Tries < maxTries && (first.IsZero() || d.Until.Before(first)) {
			first = d.Until
		}
	}
	return first
}

// moveInside puts the probes of some functions at their inner place. The entry probes that they replace go at once; the
// return probes stay for a while, for the calls that are inside.
func (r *Registry) moveInside(e *entry, a *attachment, group target.Place) {
	wanted := plan(a.file.Sites, func(p *target.Place) verdict {
		if *p == group {
			return agreed
		}
		return disagreed
	})
	until := r.now().Add(r.times.Exits)
	r.mu.Lock()
	only := a.only
	r.mu.Unlock()
	inForce, err := r.move(e, a, places(wanted, group), only, func(p *part) bool {
		if p.group != group {
			return true
		}
		if p.role == sure && p.atExit {
			p.until, p.group = until, target.Place{}
			return true
		}
		return false
	})
	switch {
	case !inForce:
		return
	case err != nil:
		r.log.Warn("a cheaper place for probes is not used: the kernel does not take it", "library", a.file.Path, "place", group.Name, "reason", err)
		r.stay(e, a, group)
		return
	}
	r.learned.agree(a.build, &group)
	r.log.Info("probes moved to a cheaper place", "library", a.file.Path, "place", group.Name)
	r.describe(e, a)
}

// stay leaves the probes where they are, and takes the check out.
func (r *Registry) stay(e *entry, a *attachment, group target.Place) {
	again := r.plansAgain(a)
	r.mu.Lock()
	if e.at == a {
		delete(a.checks, group)
		a.again = again
		var over []*part
		a.parts = slices.DeleteFunc(a.parts, func(p *part) bool {
			its := p.role == check && p.group == group
			if its {
				over = append(over, p)
			}
			return its
		})
		r.retire(a, over, false)
	}
	r.mu.Unlock()
	r.describe(e, a)
}

// describe says in State where the probes lie now.
func (r *Registry) describe(e *entry, a *attachment) {
	lines := explain(a.file.Sites, a.judge(r), a.doubts(r))
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.at == a {
		e.state.Sites = lines
	}
}
