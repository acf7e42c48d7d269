package probe

import "github.com/spile/spile/agent/target"

// Uses lists the files that a process maps and that are probed now.
func (r *Registry) Uses(p target.Process) []target.Identity {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []target.Identity
	for k, e := range r.files {
		if e.at == nil || e.at.only != 0 && e.at.only != p.PID {
			continue // a canary's file is not probed in others
		}
		if _, maps := e.users[p]; maps {
			list = append(list, k.id)
		}
	}
	return list
}
