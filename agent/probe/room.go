package probe

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
)

const (
	// maxFiles bounds the registry: beyond it a file is counted and not attached.
	maxFiles = 4096
	// maxOwned bounds what the files of one user who is not root may take of that. Anybody can name files libssl.so.N and
	// map them; without this he could leave no room for the files of others.
	maxOwned = 256
	// maxOwnedAlone is the same for what is attached to single processes, of which a server may have many, and maxAlone what
	// all of that may take.
	maxOwnedAlone = 1024
	maxAlone      = maxFiles / 2
	// maxRefused bounds the memory of who was turned away; beyond it the reasons are told once more when they are met.
	maxRefused = 1024
)

// The reasons of files that were turned away.
const (
	noRoom      = "the agent holds probes in 4096 files, which is its limit; stop programs that map libraries of many builds"
	noRoomOwned = "its owner has 256 other files with probes, which is the limit for a user who is not root; let root own the library"
)

// owner is whose an open file is.
type owner struct {
	uid     uint32
	trusted bool // nobody but root may write into it
}

// ownerOf reads that. It is root where it is not known, as for a file that could not be opened: it fails, and what failed
// makes room for others anyhow. The directory does not matter: who may put another file there owns that.
func ownerOf(f target.File) owner {
	root := owner{0, true}
	if f.Handle == nil {
		return root
	}
	var st unix.Stat_t
	raw, err := f.Handle.SyscallConn()
	if err != nil {
		return root
	}
	known := false
	if err := raw.Control(func(fd uintptr) { known = unix.Fstat(int(fd), &st) == nil }); err != nil || !known {
		return root
	}
	shared := st.Mode&unix.S_IWOTH != 0 || st.Mode&unix.S_IWGRP != 0 && st.Gid != 0
	return owner{st.Uid, st.Uid == 0 && !shared}
}

// admits makes room for one more file, and says why there is none. The caller holds the lock.
func (r *Registry) admits(k key, uid uint32) (why string) {
	alone := k.only != 0
	alike := func(e *entry) bool { return (e.state.Only != 0) == alone }
	limit := maxOwned
	if alone {
		limit = maxOwnedAlone
	}
	switch {
	case uid != 0 && !r.below(limit, func(e *entry) bool { return e.owner == uid && alike(e) }):
		return noRoomOwned
	case alone && !r.below(maxAlone, alike), !r.below(maxFiles, func(*entry) bool { return true }):
		return noRoom
	}
	return ""
}

// below reports whether there are fewer than limit of some files, and lets go of one that is not in use where not.
func (r *Registry) below(limit int, among func(*entry) bool) bool {
	n := 0
	for _, e := range r.files {
		if among(e) {
			n++
		}
	}
	return n < limit || r.evict(among)
}

// evict lets go of a file that is not in use: the one that failed longest ago, or else the one that nobody has mapped for
// the longest time. It reports whether there was one. The caller holds the lock.
func (r *Registry) evict(among func(*entry) bool) bool {
	var victim *entry
	for _, e := range r.files {
		if idle := e.state.Phase == Failed || e.state.Phase == Denied || e.state.Phase == Draining; !idle || !among(e) {
			continue
		}
		if victim == nil || e.before(victim) {
			victim = e
		}
	}
	if victim == nil {
		return false
	}
	r.detach(victim, r.slotsOut, nil)
	r.remove(victim.key())
	r.evicted++
	return true
}

// before says which of two goes first.
func (e *entry) before(other *entry) bool {
	out := func(e *entry) bool { return e.state.Phase == Failed || e.state.Phase == Denied }
	if failed := out(e); failed != out(other) {
		return failed
	}
	since := func(e *entry) time.Time {
		if out(e) {
			return e.tried
		}
		return e.idle
	}
	return since(e).Before(since(other))
}

// refuse counts a file that was turned away, and keeps the reason for whoever asks.
func (r *Registry) refuse(k key, why string) {
	r.overflow++
	if len(r.refused) >= maxRefused {
		clear(r.refused)
	}
	r.refused[k] = why
}

// Refused is how many times a file was turned away because there was no room for it.
func (r *Registry) Refused() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.overflow
}

// Evicted is how many files that failed, or that nobody mapped, had to make room.
func (r *Registry) Evicted() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.evicted
}
