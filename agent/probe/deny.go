package probe

import (
	"fmt"
	"sync"
	"time"

	"github.com/spile/spile/agent/target"
)

// Deny takes the probes out of a build at once, wherever a copy of it lies, and keeps them out until somebody allows it
// again (Allow). Of a file that others than root may write, which could have made it with the build id of another, only
// that file is meant. It returns when they are out and that is written down; where it cannot be written down it is in force for
// as long as the agent runs.
func (r *Registry) Deny(id target.Identity, why, evidence string) error {
	r.mu.Lock()
	b := build{id: id.BuildID}
	e := r.files[key{r.known(id, 0), 0}]
	for k, other := range r.files {
		if e == nil && k.id == id {
			e = other
		}
	}
	if e != nil {
		b = e.build
	}
	if b == (build{}) {
		r.mu.Unlock()
		return fmt.Errorf("deny file %d:%d: it is not attached, and has no build id", id.Dev, id.Ino)
	}
	denial := denialOf(b)
	denial.When = r.now().UTC().Truncate(time.Second)
	if e != nil {
		denial.Library, denial.Path = e.state.Library, e.state.Path
	}
	denial.Why, denial.Evidence = target.OneLine(why), target.OneLine(evidence)
	r.denied.deny(b, denial)
	var out sync.WaitGroup
	for _, e := range r.files {
		if b.covers(e.build) {
			r.bar(e, &out)
		}
	}
	r.mu.Unlock()
	out.Wait()
	r.log.Error("a build is not probed any more", "library", denial.Library, "path", denial.Path, "build", b.name(), "reason", denial.Why, "evidence", denial.Evidence)
	r.learned.harmful(b)
	if err := r.denied.keep(b, denial); err != nil {
		return fmt.Errorf("keep that %s is denied: %w", denial.Path, err)
	}
	return nil
}

// bar takes a file out because its build is denied. The caller holds the lock.
func (r *Registry) bar(e *entry, out *sync.WaitGroup) {
	if e.at != nil {
		out.Add(1)
		r.detach(e, r.urgent, out.Done)
	}
	e.canary, e.written = nil, false
	e.state.Phase, e.state.Reason, e.state.Unleased, e.tried = Denied, "denied: "+r.denied.why(e.build), "", r.now()
}

// followList takes over what a person changed in the list of denied builds. What is allowed again is for the Watcher to hand
// on.
func (r *Registry) followList() {
	if !r.denied.refresh() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out sync.WaitGroup
	for _, e := range r.files {
		switch why := r.denied.why(e.build); {
		case why != "" && e.state.Phase != Denied:
			r.bar(e, &out)
		case why == "" && e.state.Phase == Denied:
			r.await(e, Failed, "it was denied, and is allowed again: it is attached within seconds", 0)
		}
	}
}

// await leaves a file to the Watcher, to be handed on after a while. The caller holds the lock.
func (r *Registry) await(e *entry, phase Phase, why string, wait time.Duration) {
	e.canary, e.renew = nil, true
	e.state.Phase, e.state.Reason, e.state.Unleased, e.wait, e.tried = phase, why, "", wait, r.now()
}

// Alone says that a file must not be attached for all processes, since one maps it that no probe may be in; why = "" says
// that it may again. What is attached to single processes stays.
func (r *Registry) Alone(id target.Identity, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if why == "" {
		delete(r.alone, id)
		return
	}
	r.alone[id] = why
	for k, e := range r.files {
		if k.only == 0 && (k.id == id || k.id.SameInode(id)) {
			r.detach(e, r.urgent, nil)
			r.remove(k)
		}
	}
}

// mustBeAlone says why a file must not be attached for all processes, "" where it may.
func (r *Registry) mustBeAlone(id target.Identity) string {
	if why, ok := r.alone[id]; ok {
		return why
	}
	for other, why := range r.alone {
		if other.SameInode(id) {
			return why
		}
	}
	return ""
}
