package probe

import (
	"slices"

	"github.com/spile/spile/agent/target"
)

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

// InAll lists the files that are probed in every process that maps them, which one that nobody follows may do. A program,
// named by its inode, maps libraries, and no other program.
func (r *Registry) InAll(program uint64) []target.Identity {
	isProgram := map[string]bool{}
	for _, l := range target.Libraries() {
		isProgram[l.Name] = l.Where != target.SharedObject
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []target.Identity
	for k, e := range r.files {
		if e.at != nil && e.at.only == 0 && (!isProgram[e.state.Library] || k.id.Ino == program) {
			list = append(list, k.id)
		}
	}
	return list
}

// pageBytes is the least page of Linux. A file is mapped by pages, so that this part of an address is that of its place in
// the file, wherever it is mapped.
const pageBytes = 4096

// MayLie lists those of some files that have a probe, or had one last, where an address may be by its place in the page.
func (r *Registry) MayLie(among []target.Identity, address uint64) []target.Identity {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []target.Identity
	for k, e := range r.files {
		if slices.Contains(among, k.id) && !slices.Contains(list, k.id) &&
			slices.ContainsFunc(e.places, func(at uint64) bool { return (address-at)%pageBytes == 0 }) {
			list = append(list, k.id)
		}
	}
	return list
}

// placesOf lists where in a file probes may lie.
func placesOf(sites []target.Site) (offsets []uint64) {
	for _, s := range sites {
		offsets = append(append(offsets, s.Offset), s.Returns...)
		if s.Inner != nil {
			offsets = append(offsets, s.Inner.Offset)
		}
	}
	return offsets
}
