package probe

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
)

// guard notices that somebody is about to write into a file that is attached, or has done so. With a lease (fcntl(2),
// F_SETLEASE) the kernel makes whoever opens the file for writing wait until the probes are out.
type guard struct {
	file     *os.File // a descriptor of its own; the lease hangs on it
	unleased string   // why there is no lease, in one line; "" = there is one
	stamp    target.Stamp
	offsets  []uint64
	code     [sha256.Size]byte // of what lies around the sites
}

// errWritten is the cause where a file is not attached because of somebody who writes into it.
var errWritten = errors.New("it is open for writing")

func beingWritten(path string) error {
	return &refusal{what: "attach to " + path, why: "it is being written", remedy: "it is tried again when it is not", cause: errWritten}
}

// guarded keeps writers out of a file, makes sure that it is still what was described, and attaches to it. In this
// order nobody can put other instructions under the probes.
func guarded(programs Programs, f target.File) (links []link.Link, g *guard, err error) {
	if f.Problem != nil {
		return nil, nil, f.Problem
	}
	if f.Handle != nil {
		if g, err = newGuard(f); err != nil {
			return nil, nil, err
		}
	}
	if links, err = attach(programs, f); err != nil {
		g.release()
		return nil, nil, err
	}
	if g.changed() { // without a lease it may have been, meanwhile
		closeAll(links)
		g.release()
		return nil, nil, beingWritten(f.Path)
	}
	return links, g, nil
}

func newGuard(f target.File) (*guard, error) {
	// The Watcher closes its descriptor, and a lease needs one that was opened for reading only.
	own, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(f.Handle.Fd())), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, attempt{what: "attach to " + f.Path}.refused(err)
	}
	g := &guard{file: own}
	switch err := g.lease(); {
	case errors.Is(err, unix.EAGAIN):
		own.Close()
		return nil, beingWritten(f.Path)
	case err != nil:
		g.unleased = whyNoLease(err)
	}
	for _, site := range f.Sites {
		g.offsets = append(append(g.offsets, site.Offset), site.Returns...)
	}
	if g.stamp, err = f.Still(own); err == nil {
		g.code, err = g.read()
	}
	switch {
	case errors.Is(err, target.ErrWritten):
		g.release()
		return nil, beingWritten(f.Path)
	case err != nil:
		g.release()
		return nil, attempt{what: "attach to " + f.Path}.refused(err)
	}
	return g, nil
}

// whyNoLease explains in one line why writers are only noticed after the fact.
func whyNoLease(err error) string {
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "another user owns the file: give the agent CAP_LEASE"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		return "its file system has no leases, or fs.leases-enable is 0"
	}
	return "the kernel gives no lease: " + root(err)
}

// control runs do with the descriptor, which stays open meanwhile.
func (g *guard) control(do func(fd uintptr) error) error {
	raw, err := g.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = do(fd) }); err != nil {
		return err
	}
	return inner
}

func (g *guard) lease() error {
	return g.control(func(fd uintptr) error {
		// Otherwise the signal goes to the thread that asks for the lease, and with it.
		if _, err := unix.FcntlInt(fd, unix.F_SETOWN, os.Getpid()); err != nil {
			return err
		}
		_, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK)
		return err
	})
}

// broken reports whether somebody waits to write. While he does, the kernel shows the lease as given up.
func (g *guard) broken() bool {
	if g == nil || g.unleased != "" {
		return false
	}
	kind := unix.F_RDLCK
	err := g.control(func(fd uintptr) (err error) {
		kind, err = unix.FcntlInt(fd, unix.F_GETLEASE, 0)
		return err
	})
	return err == nil && kind != unix.F_RDLCK
}

// changed reports whether there is other code in the file than there was. It may wait for the file system.
func (g *guard) changed() bool {
	if g == nil {
		return false
	}
	now, err := target.StampOf(g.file)
	if errors.Is(err, os.ErrClosed) {
		return false // let go meanwhile
	}
	switch {
	case err != nil:
		return true // what cannot be looked at is not to be trusted
	case now == g.stamp:
		return false
	case !now.SameContent(g.stamp):
		return true
	}
	// A rename, a new link, or a writer who set the time back.
	code, err := g.read()
	return !errors.Is(err, os.ErrClosed) && (err != nil || code != g.code)
}

// around is how much is compared before and after each site: more than the longest instruction, which has 15 bytes.
const around = 32

func (g *guard) read() (sum [sha256.Size]byte, err error) {
	hash, window := sha256.New(), make([]byte, 2*around)
	for _, offset := range g.offsets {
		n, err := g.file.ReadAt(window, int64(offset-min(offset, around)))
		if err != nil && !errors.Is(err, io.EOF) {
			return sum, err
		}
		hash.Write(window[:n])
	}
	return [sha256.Size]byte(hash.Sum(nil)), nil
}

// release lets writers in.
func (g *guard) release() {
	if g == nil {
		return
	}
	if g.unleased == "" {
		// A child between fork and exec may have the descriptor too, so that closing it is not enough.
		_ = g.control(func(fd uintptr) error {
			_, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
			return err
		})
	}
	g.file.Close()
}

// outdated reports whether a description is of another content than the one that is attached.
func (e *entry) outdated(f target.File) bool {
	return e.guard != nil && e.links != nil && f.Stamp != (target.Stamp{}) && !f.Stamp.SameContent(e.guard.stamp)
}

// yield takes the probes out of a file at once because of a writer. The users stay: they are what brings it back. The
// caller holds the lock.
func (r *Registry) yield(e *entry) {
	r.detach(e, r.urgent)
	r.failed(e, beingWritten(e.state.Path))
}

// failed says when a file is tried again.
func (r *Registry) failed(e *entry, err error) {
	wait := r.times.Forget
	switch again := e.written; {
	case errors.Is(err, errWritten) && again:
		wait = min(2*e.wait, r.times.Retry) // somebody keeps it open, or opens it all the time
	case errors.Is(err, errWritten):
		wait = r.times.Written
	case passing(err):
		wait = r.times.Retry
	}
	e.written = errors.Is(err, errWritten)
	e.state.Phase, e.state.Reason, e.state.Unleased, e.wait, e.tried = Failed, oneLine(err), "", wait, r.now()
}

// yieldBroken makes way for everyone who waits to write.
func (r *Registry) yieldBroken() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.files {
		if e.guard.broken() {
			r.yield(e)
		}
	}
}

// yieldChanged detaches what was written where no lease could prevent it. It looks without the lock, for a file system
// may not answer.
func (r *Registry) yieldChanged() {
	r.mu.Lock()
	guards := make(map[*entry]*guard, len(r.files))
	for _, e := range r.files {
		if e.guard != nil {
			guards[e] = e.guard
		}
	}
	r.mu.Unlock()
	for e, g := range guards {
		if !g.changed() {
			continue
		}
		r.mu.Lock()
		if e.guard == g {
			r.yield(e)
		}
		r.mu.Unlock()
	}
}

// lookLoop has a goroutine of its own: while it waits for a file system, the leases of the other files are served.
func (r *Registry) lookLoop() {
	defer close(r.looked)
	ticker := time.NewTicker(r.times.Sweep)
	defer ticker.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-ticker.C:
			r.yieldChanged()
		}
	}
}

// leaseSignal is what the kernel sends when a lease is in somebody's way. It does not say which.
const leaseSignal = syscall.SIGIO

// Stands reports whether a file is attached, and whether one that is not is to be handed on again now.
func (r *Registry) Stands(id target.Identity, only uint32) (attached, again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.files[key{r.known(id, only), only}]
	if !ok {
		return false, false
	}
	attached = e.state.Phase == Attached || e.state.Phase == Draining
	return attached, e.state.Phase == Failed && e.written && r.now().Sub(e.tried) >= e.wait
}
