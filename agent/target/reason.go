package target

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Traffic is what the kernel knows of a process that moved bytes which nobody decoded.
type Traffic struct {
	PID       uint32
	Start     time.Duration // of the process, since boot; 0 = not known
	Undecoded uint64        // bytes in TLS on the wire that no probe explains
	QUIC      uint64        // bytes of UDP payload on sockets that carry QUIC
	KTLS      bool          // the kernel encrypts for a socket of it
	Ended     bool
}

// Uncovered is a process that talks TLS or QUIC and is not decoded, or not all of it.
type Uncovered struct {
	PID       uint32
	Start     time.Duration
	Process   string
	Reason    string // one line for a person
	TLSBytes  uint64
	QUICBytes uint64
}

// ProbeState says what became of the probes of a file in a process: known = it was handed on, reason = why it is not attached.
type ProbeState func(id Identity, pid uint32) (known, attached bool, reason string)

// Explainer names reasons from facts. It never guesses: what it cannot tell it calls unknown. It remembers what it
// found, so that a process which has ended keeps its reason, and is safe for concurrent use.
type Explainer struct {
	Proc      string
	Cache     *Cache
	Libraries []Library
	Probe     ProbeState
	Deny      *Denylist // nil = nobody is on it

	mu     sync.Mutex
	told   map[life]*told
	files  map[stamp]*opened
	stacks []stack
	finder *finder
	brief  brief
}

// life names a process for good, as the kernel's side does.
type life struct {
	pid   uint32
	start time.Duration
}

// told is what was found out about a process.
type told struct {
	looked, asked time.Time
	sight         sight
	undecoded     uint64 // when it was looked at
	// attachedAt is how many bytes were undecoded when a library of it was first seen attached. More of them since
	// then did not pass before that.
	attached   bool
	attachedAt uint64
	grown      bool
	ended      bool
}

const (
	// maxExplained bounds how many processes are looked at in one round; those with the most bytes come first.
	maxExplained = 256
	// roundTime bounds one round, and searchTime its search for texts: a report must not wait for them.
	roundTime  = time.Second
	searchTime = 300 * time.Millisecond
	// lookAgain is how long a look is good for where something may have changed, and lookAnyway where nothing has.
	lookAgain   = 3 * time.Second
	lookAnyway  = 30 * time.Second
	forgetAfter = 2 * time.Minute
	maxTold     = 1 << 14
)

// Explain names the reasons of processes, most bytes first. A process that there was no time for is named as such; its
// turn comes in one of the next rounds.
func (e *Explainer) Explain(traffic []Traffic) []Uncovered {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.told == nil {
		e.told, e.files = map[life]*told{}, map[stamp]*opened{}
		e.stacks = stacks()
		e.finder = newFinder(marks(e.stacks))
	}
	now := time.Now()
	rows := slices.Clone(traffic)
	slices.SortFunc(rows, func(a, b Traffic) int {
		return cmp.Or(cmp.Compare(b.Undecoded, a.Undecoded), cmp.Compare(b.QUIC, a.QUIC), cmp.Compare(a.PID, b.PID), cmp.Compare(a.Start, b.Start))
	})
	round := round{end: now.Add(roundTime), search: now.Add(searchTime)}
	for i, t := range e.due(rows, now) {
		if i == maxExplained || time.Now().After(round.end) {
			break
		}
		e.lookAt(t, now, round)
	}
	list := make([]Uncovered, 0, len(rows))
	for _, t := range rows {
		u := Uncovered{PID: t.PID, Start: t.Start, TLSBytes: t.Undecoded, QUICBytes: t.QUIC}
		k := e.told[life{t.PID, t.Start}]
		if k != nil {
			k.asked = now
			u.Process = k.sight.process
		}
		u.Reason = OneLine(reasonOf(t, k))
		list = append(list, u)
	}
	e.forget(now)
	return list
}

// round is when one round has to stop.
type round struct{ end, search time.Time }

// due lists whom to look at: who was never looked at, then whose look is the oldest.
func (e *Explainer) due(rows []Traffic, now time.Time) []Traffic {
	var never, again []Traffic
	for _, t := range rows {
		k := e.told[life{t.PID, t.Start}]
		switch {
		case t.Ended && !(k == nil && e.brief.holds(life{t.PID, t.Start})), t.Undecoded == 0 && t.QUIC == 0 && !t.KTLS:
		case k == nil:
			never = append(never, t)
		case k.ended:
		case k.sight.searching, now.Sub(k.looked) >= lookAnyway, now.Sub(k.looked) >= lookAgain && (k.sight.fleeting() || k.undecoded != t.Undecoded):
			again = append(again, t)
		}
	}
	slices.SortStableFunc(again, func(a, b Traffic) int {
		return e.told[life{a.PID, a.Start}].looked.Compare(e.told[life{b.PID, b.Start}].looked)
	})
	return append(never, again...)
}

// lookAt looks at a process and remembers what it saw.
func (e *Explainer) lookAt(t Traffic, now time.Time, r round) {
	key := life{t.PID, t.Start}
	k := e.told[key]
	if k == nil {
		k = &told{}
		if len(e.told) >= maxTold {
			for old := range e.told {
				delete(e.told, old) // any one will do: it is looked at again
				break
			}
		}
		e.told[key] = k
	}
	k.looked, k.asked, k.undecoded = now, now, t.Undecoded
	saw, ended := e.see(t, k, r)
	if k.ended = ended; ended && k.sight.process != "" {
		return // it keeps what was seen while it ran
	}
	k.sight = saw
	if len(saw.decoded) == 0 {
		k.attached, k.grown = false, false
		return
	}
	if !k.attached {
		k.attached, k.attachedAt = true, t.Undecoded
	}
	k.grown = t.Undecoded > k.attachedAt
}

// forget lets go of processes that nobody has asked about for a while.
func (e *Explainer) forget(now time.Time) {
	for key, k := range e.told {
		if now.Sub(k.asked) >= forgetAfter {
			delete(e.told, key)
		}
	}
}
