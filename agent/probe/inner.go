package probe

import (
	"slices"

	"github.com/spile/spile/agent/target"
)

// enoughChecks is how many calls have to show at an inner place what they showed at the entry of their function.
const enoughChecks = 16

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
		v := r.learned.inner(a.build, &group) // another file of the same build may have come first
		if v == undecided {
			v = r.tally(a, group, slot)
		}
		switch v {
		case agreed:
			r.moveInside(e, a, group)
		case disagreed:
			r.log.Warn("a cheaper place for probes is not used: other calls were seen there", "library", a.file.Path, "place", group.Name)
			r.learned.decide(a.build, &group, disagreed)
			r.stay(e, a, group)
		}
	}
}

// tally compares the checks with what they were at the first look.
func (r *Registry) tally(a *attachment, group target.Place, slot uint32) verdict {
	agree, disagree, err := r.slots.checks(slot)
	if err != nil {
		r.log.Warn("the checks of a cheaper place for probes cannot be read", "library", a.file.Path, "reason", err)
		return undecided
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := a.checks[group]
	switch {
	case t == nil:
		a.checks[group] = &tally{agree: agree, disagree: disagree}
	case disagree > t.disagree:
		return disagreed
	case agree-t.agree >= enoughChecks:
		return agreed
	}
	return undecided
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
	r.learned.decide(a.build, &group, agreed)
	r.log.Info("probes moved to a cheaper place", "library", a.file.Path, "place", group.Name)
	r.describe(e, a)
}

// stay leaves the probes where they are, and takes the check out.
func (r *Registry) stay(e *entry, a *attachment, group target.Place) {
	r.mu.Lock()
	if e.at == a {
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
	lines := explain(a.file.Sites, a.judge(r))
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.at == a {
		e.state.Sites = lines
	}
}
