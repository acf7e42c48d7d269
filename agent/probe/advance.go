package probe

import (
	"time"
)

// maxMoving is how many files are moved at once.
const maxMoving = 16

// advanceLoop takes what is undecided further: canaries, inner places, probes that stay for a while, builds that survive.
func (r *Registry) advanceLoop() {
	defer close(r.advanced)
	ticker := time.NewTicker(r.times.Check)
	defer ticker.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-ticker.C:
		case <-r.kick:
		}
		r.advance()
	}
}

// soon has the next look made now.
func (r *Registry) soon() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// advance begins the next step of each file that has one. The steps run on their own: one may wait for a file system.
func (r *Registry) advance() {
	if r.counts() {
		if err := r.slots.count(); err != nil {
			r.log.Warn("the hits of probes cannot be read", "reason", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	now := r.now()
	for _, e := range r.files {
		a := e.at
		if a != nil {
			r.listen(e)
		}
		if a == nil || e.stepping || !e.hasStep(a, now) && (e.survived || !r.isHarmless(e)) {
			continue
		}
		e.stepping = true
		r.detaching.Go(func() {
			r.moving <- struct{}{}
			defer func() { <-r.moving }()
			r.step(e, a)
		})
	}
}

// hasStep reports whether something about a file is undecided or due.
func (e *entry) hasStep(a *attachment, now time.Time) bool {
	if e.canary != nil || len(a.undecided()) > 0 || a.rechecks(now) {
		return true
	}
	for _, p := range a.parts {
		if !p.until.IsZero() && !now.Before(p.until) {
			return true
		}
	}
	return false
}

func (r *Registry) step(e *entry, a *attachment) {
	defer func() {
		r.mu.Lock()
		e.stepping = false
		r.mu.Unlock()
	}()
	r.mu.Lock()
	canary := e.canary != nil
	if !canary && e.at == a {
		r.retireDue(a, r.now())
	}
	r.mu.Unlock()
	if canary {
		if r.endCanary(e, a) {
			r.learned.silent(a.build, a.file.Path)
		}
		return
	}
	r.recheck(e, a)
	r.verify(e, a)
	r.survive(e, a)
}

// counts reports whether somebody waits for hits to be read: a canary, or slots to be freed. Who waits for his first hit, or
// has to survive, can wait for a second.
func (r *Registry) counts() bool {
	if r.slots == nil {
		return false
	}
	if r.slots.hasUnused() {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	late := now.Sub(r.counted) >= r.times.Sweep
	for _, e := range r.files {
		if e.canary != nil || late && e.at != nil && e.lasts() && !e.survived {
			r.counted = now
			return true
		}
	}
	return false
}
