package target

import (
	"time"

	"github.com/spile/spile/bpf"
)

// barredFor is how long a file stays attached process by process after the last denied process that maps it is gone: a
// service that restarts must not be met by breakpoints each time.
const barredFor = time.Minute

// barred is a file that a denied process maps. A probe that is attached for all lies in that process too, so that the file
// is attached to each other process on its own.
type barred struct {
	holders int
	until   time.Time // where there are none left: when it may be attached for all again
}

// judgeDenied says whether a process is on the denylist. What it maps is then noted and not handed on.
func (w *Watcher) judgeDenied(p *watched) {
	if w.config.Deny.Empty() || p.image == "" {
		return
	}
	why := w.config.Deny.Why(p.PID, p.image)
	if why == p.denied {
		return
	}
	w.dropAll(p)
	p.denied = why
}

// mayBeDenied reports whether a process that maps a file must be looked at in any case.
func (w *Watcher) mayBeDenied(pid uint32) bool {
	if w.config.Deny.Empty() {
		return false
	}
	p, known := w.processes[pid]
	return !known || p.denied != ""
}

// note is handOn for a denied process.
func (w *Watcher) note(p *watched, h held, f File) held {
	if f.Problem != nil {
		return held{id: f.ID, path: f.Path, told: time.Now()}
	}
	if !h.denied {
		w.bar(f.ID, p.denied)
	}
	return held{id: f.ID, path: f.Path, told: time.Now(), probed: true, denied: true}
}

// barredAs finds a file among those that are attached process by process.
func (w *Watcher) barredAs(id Identity) (Identity, *barred) {
	if b := w.barred[id]; b != nil {
		return id, b
	}
	for other, b := range w.barred {
		if other.SameInode(id) {
			return other, b
		}
	}
	return id, nil
}

// bar takes the probes out of a file, first of all, and then has all others who map it looked at, to attach to them one by
// one. Their calls in between are not seen.
func (w *Watcher) bar(id Identity, why string) {
	id, b := w.barredAs(id)
	if b != nil {
		b.holders++
		return
	}
	w.barred[id] = &barred{holders: 1}
	w.config.Alone(id, "a process maps it that no probe may be in: "+why)
	w.again(id)
}

func (w *Watcher) unbar(id Identity) {
	_, b := w.barredAs(id)
	if b == nil {
		return
	}
	if b.holders--; b.holders == 0 {
		b.until = time.Now().Add(w.config.barredFor())
	}
}

// unbarDue lets files be attached for all again. What is attached to single processes stays until then.
func (w *Watcher) unbarDue(now time.Time) {
	for id, b := range w.barred {
		if b.holders > 0 || now.Before(b.until) {
			continue
		}
		delete(w.barred, id)
		w.config.Alone(id, "")
		w.again(id)
	}
}

// again has all who map a file hand it on anew.
func (w *Watcher) again(id Identity) {
	same := func(h held) bool { return !h.told.IsZero() && !h.denied && (h.id == id || h.id.SameInode(id)) }
	for pid, p := range w.processes {
		found := false
		for as, h := range p.files {
			if same(h) {
				h.probed, h.lapsed, found = false, true, true
				p.files[as], p.space = h, nil
			}
		}
		if same(p.own) {
			p.own.probed, p.searched, found = false, false, true
		}
		if found {
			w.pending.once(pid, time.Now())
		}
	}
}

// lookAtDue looks at those whose time has come.
func (w *Watcher) lookAtDue() {
	for _, pid := range w.pending.due(time.Now()) {
		w.look(pid, false, bpf.FileID{})
	}
}

func (c Config) barredFor() time.Duration {
	if c.BarredFor > 0 {
		return c.BarredFor
	}
	return barredFor
}
