package target

import (
	"os"
	"path"
	"slices"
	"sync"
	"time"
)

const (
	// maxBrief and briefFor bound the executables that are held open for processes that may end before their turn: a
	// file system cannot be taken down while a file in it is open.
	maxBrief = 256
	briefFor = 3 * time.Second
)

// brief holds the executables of processes that have just begun. Many a client lives for a tenth of a second: its bytes
// are counted, and when they are to be explained procfs does not know it any more.
type brief struct {
	mu   sync.Mutex
	held []heldExe // the oldest first
}

type heldExe struct {
	of    life
	exe   *os.File
	since time.Time
}

// Started says that a process runs a new program; start is since boot. It opens one file, and may be called while
// Explain is at work.
func (e *Explainer) Started(pid uint32, start time.Duration) {
	exe, err := os.Open(procPath(e.Proc, pid, "exe"))
	if err != nil {
		return // over already, and nothing was learnt
	}
	b, of := &e.brief, life{pid, start}
	b.release(of) // it ran another program before
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.held) >= maxBrief {
		b.held[0].exe.Close()
		b.held = slices.Delete(b.held, 0, 1)
	}
	b.held = append(b.held, heldExe{of, exe, time.Now()})
	time.AfterFunc(briefFor, func() { b.expire(time.Now()) })
}

// Close lets go of what is held open.
func (e *Explainer) Close() { e.brief.releaseIf(func(heldExe) bool { return true }) }

func (b *brief) release(of life) { b.releaseIf(func(h heldExe) bool { return h.of == of }) }

// expire lets go of those that are old enough to have been looked at alive.
func (b *brief) expire(now time.Time) {
	b.releaseIf(func(h heldExe) bool { return now.Sub(h.since) >= briefFor })
}

func (b *brief) releaseIf(gone func(heldExe) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = slices.DeleteFunc(b.held, func(h heldExe) bool {
		if !gone(h) {
			return false
		}
		h.exe.Close()
		return true
	})
}

// holds reports whether the executable of a process is held.
func (b *brief) holds(of life) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.held, func(h heldExe) bool { return h.of == of })
}

// take hands over the executable of a process, to be closed by the caller; nil where it is not held.
func (b *brief) take(of life) *os.File {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.held, func(h heldExe) bool { return h.of == of })
	if i < 0 {
		return nil
	}
	exe := b.held[i].exe
	b.held = slices.Delete(b.held, i, i+1)
	return exe
}

// seeBrief looks at the executable of a process that is over. Its libraries are not known any more.
func (e *Explainer) seeBrief(t Traffic, until time.Time) (s sight) {
	exe := e.brief.take(life{t.PID, t.Start})
	if exe == nil {
		return s
	}
	defer exe.Close()
	name, err := nameOf(exe)
	if err != nil {
		return s
	}
	s.process, s.alone = path.Base(name), true
	if t.Undecoded == 0 {
		return s
	}
	s.narrow = isNarrowFile(exe)
	e.builtIn(&s, name, exe)
	if len(s.problems) == 0 && len(s.decoded) == 0 {
		e.searchAll(&s, t.PID, exe, nil, until)
	}
	return s
}
