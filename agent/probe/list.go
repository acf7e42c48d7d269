package probe

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/spile/spile/agent/target"
)

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
		if e.at == nil {
			s.Sites = nil
		}
		if s.Processes > 0 && r.isUnheard(e) {
			s.Reason = unheard
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b State) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.ID.Ino, b.ID.Ino), cmp.Compare(a.ID.Dev, b.ID.Dev), cmp.Compare(a.Only, b.Only))
	})
	told := map[target.Identity]bool{}
	for i := range list {
		if s := &list[i]; !told[s.ID] {
			told[s.ID] = true
			s.Hits, s.Cost = r.slots.figures(s.ID)
		}
	}
	return list
}

// State says what became of a file in a process; it has the shape of target.ProbeState.
func (r *Registry) State(id target.Identity, pid uint32) (known, attached bool, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := key{r.known(id, 0), 0}
	e, ok := r.files[key{id, pid}]
	if !ok {
		e, ok = r.files[k]
	}
	if !ok {
		if last, is := r.suspended.of(id, r.now()); is {
			return true, false, last.reason()
		}
		if why := r.mustBeAlone(id); why != "" {
			return true, false, why + "; it is attached to each other process on its own, within seconds"
		}
		why, refused := r.refused[k]
		return refused, false, why
	}
	switch e.state.Phase {
	case Attached, Draining:
		return true, true, ""
	case Attaching:
		return true, false, "it is being attached"
	case Canary:
		if e.canary.process.PID == pid {
			return true, true, ""
		}
	}
	return true, false, e.state.Reason
}

// Stands reports whether a file is attached, or about to be, and whether one that is not is to be handed on again now.
func (r *Registry) Stands(id target.Identity, only uint32) (attached, again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.files[key{r.known(id, only), only}]
	if !ok {
		return false, false
	}
	if e.state.Phase == Suspended {
		_, is := r.suspended.of(e.state.ID, r.now())
		return false, !is
	}
	attached = e.lasts() || e.state.Phase == Canary
	waits := e.state.Phase == Failed && (e.written || e.renew)
	return attached, waits && r.now().Sub(e.tried) >= e.wait
}

// Settled returns when every file that is known now is attached wherever it belongs, or not at all: a new build is probed
// in one process first. It waits no longer than a canary may take.
func (r *Registry) Settled(ctx context.Context) {
	r.mu.Lock()
	var open []*entry
	for _, e := range r.files {
		open = append(open, e)
	}
	r.mu.Unlock()
	const look = 10 * time.Millisecond
	for end := time.Now().Add(2*r.times.Canary + time.Second); len(open) > 0 && time.Now().Before(end); {
		r.mu.Lock()
		open = slices.DeleteFunc(open, func(e *entry) bool {
			return e.state.Phase != Canary && e.state.Phase != Attaching || r.files[e.key()] != e
		})
		r.mu.Unlock()
		if len(open) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(look):
		}
	}
}
