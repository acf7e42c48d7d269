package target

import (
	"context"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/spile/spile/bpf"
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
	make   sync.Once
	starts chan started
	mu     sync.Mutex // never held while a file is opened or closed
	held   []heldExe  // the oldest first
	closed bool
}

// started is a program that began, as the kernel told it.
type started struct {
	of  life
	exe bpf.FileID // zero = not known
}

type heldExe struct {
	of    life
	exe   *os.File
	since time.Time
}

// maxStarts bounds the programs that wait to be opened. One that finds no place ends unseen if it ends at once, which is
// then its reason; nothing else depends on it.
const maxStarts = 256

func (b *brief) queue() chan started {
	b.make.Do(func() { b.starts = make(chan started, maxStarts) })
	return b.starts
}

// Started says that a process runs a new program: start is since boot, and exe is how the kernel names the file. It never
// waits, and may be called while Explain is at work.
func (e *Explainer) Started(pid uint32, start time.Duration, exe bpf.FileID) {
	select {
	case e.brief.queue() <- started{life{pid, start}, exe}:
	default:
	}
}

// Hold opens the executables of programs that started, until ctx ends. It needs a goroutine that nobody waits for: a
// file system may never answer, and whoever is watched chooses the file system.
func (e *Explainer) Hold(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-e.brief.queue():
			e.hold(s)
		}
	}
}

func (e *Explainer) hold(s started) {
	b := &e.brief
	b.release(s.of) // it ran another program before
	exe, err := os.Open(procPath(e.Proc, s.of.pid, "exe"))
	if err != nil {
		return // over already, and nothing was learnt
	}
	if !e.isOf(exe, s) || !b.keep(s.of, exe) {
		exe.Close()
		return
	}
	time.AfterFunc(briefFor, func() { b.expire(time.Now()) })
}

// isOf reports whether an open executable is the one that was told. The process may have run another program since, or
// be over and its number have gone to somebody else.
func (e *Explainer) isOf(exe *os.File, s started) bool {
	id, exact, err := kernelID(e.Proc, s.of.pid, exe)
	if err != nil || s.exe != (bpf.FileID{}) && (id.Ino != s.exe.Ino || exact && id != s.exe) {
		return false
	}
	p, _, err := readProcess(e.Proc, s.of.pid)
	return err == nil && (s.of.start == 0 || p.Start == uint64(s.of.start/tick))
}

// keep holds an executable open in place of the oldest, and reports whether it does.
func (b *brief) keep(of life, exe *os.File) bool {
	var oldest *os.File
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	if len(b.held) >= maxBrief {
		oldest = b.held[0].exe
		b.held = slices.Delete(b.held, 0, 1)
	}
	b.held = append(b.held, heldExe{of, exe, time.Now()})
	b.mu.Unlock()
	if oldest != nil {
		oldest.Close()
	}
	return true
}

// Close lets go of what is held open.
func (e *Explainer) Close() {
	e.brief.mu.Lock()
	e.brief.closed = true
	e.brief.mu.Unlock()
	e.brief.releaseIf(func(heldExe) bool { return true })
}

func (b *brief) release(of life) { b.releaseIf(func(h heldExe) bool { return h.of == of }) }

// expire lets go of those that are old enough to have been looked at alive.
func (b *brief) expire(now time.Time) {
	b.releaseIf(func(h heldExe) bool { return now.Sub(h.since) >= briefFor })
}

func (b *brief) releaseIf(gone func(heldExe) bool) {
	var over []*os.File
	b.mu.Lock()
	b.held = slices.DeleteFunc(b.held, func(h heldExe) bool {
		if !gone(h) {
			return false
		}
		over = append(over, h.exe)
		return true
	})
	b.mu.Unlock()
	for _, exe := range over {
		exe.Close()
	}
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
	s.pid, s.process, s.denied, s.alone = t.PID, path.Base(name), e.Deny.Why(t.PID, name), true
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
