package probe

import (
	"fmt"
	"time"

	"github.com/spile/spile/agent/target"
)

const (
	// maxSuspended bounds how many files are suspended at a time; beyond it the one whose time is over first comes back.
	maxSuspended = maxFiles
	// maxSuspenders bounds how many suspend one file. Beyond it they share one suspension, which nobody can end early.
	maxSuspenders = 64
	sharedBy      = ""
)

// suspension is why a file has no probes for a while. It is of the file and not of an attachment, since those go and come
// with the processes that they are for: a program that is started again would have its probes back.
type suspension struct {
	until time.Time
	why   string
}

// suspensions are those of each file, by who asked for it. What one asked for only he ends.
type suspensions map[target.Identity]map[string]suspension

// of is the suspension of a file that ends last; false = there is none. An overlay's name is as good as the layer's.
func (s suspensions) of(id target.Identity, now time.Time) (last suspension, is bool) {
	for other, list := range s {
		if !other.SameInode(id) {
			continue
		}
		for _, one := range list {
			if now.Before(one.until) && (!is || one.until.After(last.until)) {
				last, is = one, true
			}
		}
	}
	return last, is
}

// add suspends a file, or does so for longer, and returns the file that had to make room, if one had to.
func (s suspensions) add(id target.Identity, by string, one suspension, now time.Time) (out target.Identity, full bool) {
	s.expire(now)
	list := s[id]
	if list == nil {
		if len(s) >= maxSuspended {
			out, full = s.firstOver(), true
			delete(s, out)
		}
		list = map[string]suspension{}
		s[id] = list
	}
	old, again := list[by]
	if !again && len(list) >= maxSuspenders {
		by = sharedBy
		old = list[by]
	}
	if old.until.After(one.until) {
		one.until = old.until
	}
	list[by] = one
	return out, full
}

// end takes back what somebody asked for.
func (s suspensions) end(id target.Identity, by string) (was bool) {
	for other, list := range s {
		if _, asked := list[by]; !asked || !other.SameInode(id) {
			continue
		}
		was = true
		if delete(list, by); len(list) == 0 {
			delete(s, other)
		}
	}
	return was
}

// expire forgets what is over.
func (s suspensions) expire(now time.Time) {
	for id, list := range s {
		for by, one := range list {
			if !now.Before(one.until) {
				delete(list, by)
			}
		}
		if len(list) == 0 {
			delete(s, id)
		}
	}
}

func (s suspensions) firstOver() (first target.Identity) {
	var soonest time.Time
	for id, list := range s {
		var last time.Time
		for _, one := range list {
			if one.until.After(last) {
				last = one.until
			}
		}
		if soonest.IsZero() || last.Before(soonest) {
			first, soonest = id, last
		}
	}
	return first
}

// Suspend keeps the probes out of a file for a while, whoever maps it now or later. It holds until its time is over or the
// one who asked for it takes it back (Resume); asked for again it holds for longer. It reports whether there was something
// to take out, or to keep out; where there was not, it holds all the same.
func (r *Registry) Suspend(id target.Identity, by, why string, d time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	id = r.known(id, 0)
	now := r.now()
	_, found := r.suspended.of(id, now)
	if out, full := r.suspended.add(id, by, suspension{now.Add(d), target.OneLine(why)}, now); full {
		r.log.Warn("too many files are suspended: one may be probed again before its time", "build_id", out.BuildID, "limit", maxSuspended)
	}
	for k, e := range r.files {
		if k.id.SameInode(id) && r.keepOut(e) {
			found = true
		}
	}
	return found
}

// Resume takes back a suspension, and reports whether there was one. When it was the last of the file, the Watcher brings
// the file back within seconds.
func (r *Registry) Resume(id target.Identity, by string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	id = r.known(id, 0)
	was := r.suspended.end(id, by)
	for k, e := range r.files {
		if k.id.SameInode(id) && e.state.Phase == Suspended && !r.keepOut(e) {
			r.await(e, Failed, "it was suspended: it is attached again within seconds", 0)
		}
	}
	return was
}

// keepOut takes the probes out of a file that is suspended, and reports whether it is. The caller holds the lock.
func (r *Registry) keepOut(e *entry) bool {
	now := r.now()
	last, is := r.suspended.of(e.state.ID, now)
	if !is || e.state.Phase == Denied {
		return false
	}
	r.detach(e, r.urgent, nil)
	e.written = false // who brings back what was written would not ask
	r.await(e, Suspended, last.reason(), last.until.Sub(now))
	return true
}

func (s suspension) reason() string {
	return fmt.Sprintf("suspended: %s; it is attached again at %s UTC", s.why, s.until.UTC().Format(time.TimeOnly))
}
