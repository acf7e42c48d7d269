package govern

import "time"

const (
	window      = 10 * time.Second // over which a mean is taken
	calmShare   = 0.7              // of the budget; below it there is room
	minPatience = time.Minute
	maxPatience = 16 * time.Minute
	// relapse: whoever is over again this soon after a step down made it too early.
	relapse = 2 * time.Minute
	// saturated is the share of its budget from which on the agent needs more: it runs on as many processors as the budget
	// has, so it cannot take all of them.
	saturated = 0.95
	// shortest reading that is kept by itself, so that a window stays small however often samples come.
	shortest = 100 * time.Millisecond
)

type verdict uint8

const (
	hold verdict = iota
	over
	calm
)

// reading is what was used in one stretch of time.
type reading struct {
	cores   float64
	elapsed time.Duration
}

// track judges one figure against its budget.
type track struct {
	budget   float64 // cores; 0 = no limit
	full     float64 // share of the budget from which on it is exceeded
	readings []reading
	span     time.Duration // of all readings
	used     float64       // core seconds in them
	calmFrom time.Duration // since when every mean has been low; 0 = the last was not
	patience time.Duration // how long that must last
	waited   time.Duration // the patience of the last step down
	lowered  time.Duration // when that was; 0 = never
}

func newTrack(budget float64) track { return track{budget: budget, full: 1, patience: minPatience} }

// take adds a reading and lets go of those that are older than the window.
func (t *track) take(elapsed time.Duration, cores float64) {
	if !(cores > 0) { // NaN too
		cores = 0
	}
	if n := len(t.readings) - 1; n >= 0 && t.readings[n].elapsed < shortest {
		last := &t.readings[n]
		sum := last.elapsed + elapsed
		*last = reading{(last.cores*last.elapsed.Seconds() + cores*elapsed.Seconds()) / sum.Seconds(), sum}
	} else {
		t.readings = append(t.readings, reading{cores, elapsed})
	}
	t.span += elapsed
	n := 0
	for ; n < len(t.readings)-1 && t.span-t.readings[n].elapsed >= window; n++ {
		t.span -= t.readings[n].elapsed
	}
	t.readings = append(t.readings[:0], t.readings[n:]...)
	t.used = 0 // summed anew: what is added and taken away again leaves errors behind
	for _, r := range t.readings {
		t.used += r.cores * r.elapsed.Seconds()
	}
}

// mean of what is in the window.
func (t *track) mean() float64 {
	if t.span <= 0 {
		return 0
	}
	return t.used / t.span.Seconds()
}

// see takes a reading and judges.
func (t *track) see(now, elapsed time.Duration, cores float64) verdict {
	t.take(elapsed, cores)
	return t.verdict(now)
}

// verdict judges a window that is full; before that nothing is known.
func (t *track) verdict(now time.Duration) verdict {
	if t.span < window {
		return hold
	}
	mean := t.mean()
	if t.budget > 0 && mean >= t.budget*calmShare {
		t.calmFrom = 0
		if mean > t.budget*t.full {
			return over
		}
		return hold
	}
	if t.calmFrom == 0 {
		t.calmFrom = max(1, now)
	}
	if now-t.calmFrom >= t.patience {
		return calm
	}
	return hold
}

// restart forgets what was measured: something changed.
func (t *track) restart() {
	t.readings, t.span, t.used, t.calmFrom = t.readings[:0], 0, 0, 0
}

// worse notes a step up.
func (t *track) worse(now time.Duration) {
	t.patience = minPatience
	if t.lowered > 0 && now-t.lowered < relapse {
		t.patience = min(2*t.waited, maxPatience)
	}
	t.restart()
}

// better notes a step down.
func (t *track) better(now time.Duration) {
	t.lowered, t.waited, t.patience = now, t.patience, minPatience
	t.restart()
}
