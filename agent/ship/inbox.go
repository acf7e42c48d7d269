package ship

import (
	"sync"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// inbox holds calls between whoever adds them and the batcher, which is woken by the first and when there are enough for a
// batch. A channel would wake it for each; at 25,000 calls a second that was a sixth of the agent's time.
type inbox struct {
	mu     sync.Mutex
	calls  []*v1.Call
	enough int
	max    int
	came   chan struct{}
}

func newInbox(enough, most int) inbox {
	return inbox{enough: min(enough, most), max: most, came: make(chan struct{}, 1)}
}

// put takes what there is room for, and says how many that were. The slice stays the caller's.
func (i *inbox) put(calls []*v1.Call) int {
	i.mu.Lock()
	n, before := min(len(calls), i.max-len(i.calls)), len(i.calls)
	i.calls = append(i.calls, calls[:n]...)
	i.mu.Unlock()
	if n > 0 && before == 0 || before < i.enough && before+n >= i.enough {
		select {
		case i.came <- struct{}{}:
		default:
		}
	}
	return n
}

// take empties the inbox; spare is a slice that it may fill next.
func (i *inbox) take(spare []*v1.Call) []*v1.Call {
	i.mu.Lock()
	defer i.mu.Unlock()
	taken := i.calls
	i.calls = spare[:0]
	return taken
}

func (i *inbox) len() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.calls)
}
