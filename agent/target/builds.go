package target

import (
	"sync"
	"time"
)

const (
	// buildLimit is how long a build id is waited for. With the file in the page cache it takes 0.1 ms.
	buildLimit = 10 * time.Millisecond
	// buildPause follows a wait in vain: so slow file systems delay the caller by a hundredth of the time at most.
	buildPause = time.Second
)

// Builds reads the build ids of executables for a caller who must not be held up by a file system. One at a time is read;
// while that hangs all others are unknown, and cost no time.
type Builds struct {
	Proc  string
	Cache *Cache

	mu      sync.Mutex
	reading bool
	resume  time.Time // when waiting is allowed again
}

// ID is the build id of a process's executable; "" = it has none, or it is not known in time.
func (b *Builds) ID(pid uint32) string {
	if !b.begin(time.Now()) {
		return ""
	}
	answer := make(chan string, 1)
	go func() {
		id := b.Cache.BuildID(b.Proc, pid)
		b.mu.Lock()
		b.reading = false
		b.mu.Unlock()
		answer <- id
	}()
	limit := time.NewTimer(buildLimit)
	defer limit.Stop()
	select {
	case id := <-answer:
		return id
	case <-limit.C:
		b.mu.Lock()
		defer b.mu.Unlock()
		b.resume = time.Now().Add(buildPause)
		return ""
	}
}

func (b *Builds) begin(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reading || now.Before(b.resume) {
		return false
	}
	b.reading = true
	return true
}
