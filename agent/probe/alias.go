package probe

import "github.com/spile/spile/agent/target"

// known finds the name under which a file is in the registry. An overlay shows a file of its layer under another name,
// and both are one inode: where a program outside the container maps the layer's file (a container over the host's own
// root, for one), a second attachment would make two events of each call.
func (r *Registry) known(id target.Identity, only uint32) target.Identity {
	if _, ok := r.files[key{id, only}]; ok || only != 0 {
		return id
	}
	if real, ok := r.aliases[id]; ok {
		return real
	}
	candidate, n := id, 0
	for k := range r.files {
		if k.only == 0 && k.id.SameInode(id) && !r.taken(k.id, id) {
			candidate, n = k.id, n+1
		}
	}
	// Snapshots of one file system number their files alike. Where several could be meant, none is.
	if n != 1 {
		return id
	}
	r.aliases[id] = candidate
	return candidate
}

// taken reports whether a file that an overlay shows is known to be one of another device.
func (r *Registry) taken(overlaid, id target.Identity) bool {
	for other, real := range r.aliases {
		if real == overlaid && other.Dev != id.Dev {
			return true
		}
	}
	return false
}

// remove forgets a file and its other names. The caller holds the lock.
func (r *Registry) remove(k key) {
	delete(r.files, k)
	for other, real := range r.aliases {
		if real == k.id && k.only == 0 {
			delete(r.aliases, other)
		}
	}
}
