package call

import "time"

const (
	// effortBytes is how much JSON is described in a second, a second's worth kept: at some 5 ns a byte that is a
	// fiftieth of a processor. Above that rate bodies repeat each other.
	effortBytes = 4 << 20
	// leastBytes of each body are described whatever the rate.
	leastBytes = 256
)

// effort is what describing bodies may still cost. Its time is that of the calls, so a recording is always described alike.
type effort struct {
	spent int // bytes beyond what the past has paid for
	at    time.Duration
}

// grant returns how many of n bytes may be described now.
func (e *effort) grant(now time.Duration, n int) int {
	if passed := now - e.at; passed > 0 {
		e.spent = max(0, e.spent-int(min(passed, time.Second)*effortBytes/time.Second))
		e.at = now
	}
	if n <= leastBytes {
		return n
	}
	if e.spent+n > effortBytes {
		return leastBytes
	}
	e.spent += n
	return n
}
