package probe

import "github.com/spile/spile/agent/target"

// Resume ends a suspension early, and reports whether there was one. The Watcher brings the file back within seconds.
func (r *Registry) Resume(id target.Identity) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	id, found := r.known(id, 0), false
	for k, e := range r.files {
		if k.id == id && e.state.Phase == Suspended {
			found = true
			r.await(e, Failed, "it was suspended: it is attached again within seconds", 0)
		}
	}
	return found
}
