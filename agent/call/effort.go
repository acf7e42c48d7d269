package call

import "time"

// How much of a JSON text is described depends on how much was described before it. A second's worth is kept, and half as
// much again for a little of each:
//
//	described before   of the next
//	up to 8 MiB        all
//	up to 12 MiB       4 KiB
//	more               1 KiB, whatever the rate
//
// At some 5 ns a byte 8 MiB a second are a twentieth of a processor. Above that rate bodies repeat each other.
const (
	effortBytes = 8 << 20 // a second
	partAbove   = effortBytes
	leastAbove  = effortBytes / 2 * 3
	partBytes   = 4 << 10
	leastBytes  = 1 << 10
)

// effort is what describing bodies may still cost. Its time is that of the calls, so a recording is always described alike.
type effort struct {
	spent int // bytes beyond what the past has paid for
	at    time.Duration
}

// grant returns how many of n bytes may be described now.
func (e *effort) grant(now time.Duration, n int) int {
	if passed := now - e.at; passed > 0 {
		e.spent = max(0, e.spent-int(min(passed, 2*time.Second)*effortBytes/time.Second))
		e.at = now
	}
	if n <= leastBytes {
		return n
	}
	if e.spent+n > partAbove {
		n = min(n, partBytes)
	}
	if e.spent+n > leastAbove {
		return leastBytes
	}
	e.spent += n
	return n
}
