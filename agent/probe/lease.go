package probe

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
)

// guard notices that somebody is about to write into a file that is attached, or has done so. With a lease (fcntl(2),
// F_SETLEASE) the kernel makes whoever opens the file for writing wait until the probes are out.
type guard struct {
	file      *os.File // a descriptor of its own; the lease hangs on it
	unleased  string   // why there is no lease, in one line; "" = there is one
	stamp     target.Stamp
	described target.File // with that descriptor
	offsets   []uint64
	code      [sha256.Size]byte // of what lies around the sites
	looking   sync.Mutex        // held while file is looked at, so that it is not closed meanwhile
	closed    bool
}

// errWritten is the cause where a file is not attached because of somebody who writes into it.
var errWritten = errors.New("it is open for writing")

func beingWritten(path string) error {
	return &target.Problem{What: "attach to " + path, Why: "it is being written", Remedy: "it is tried again when it is not", Cause: errWritten}
}

func newGuard(f target.File) (*guard, error) {
	// The Watcher closes its descriptor, and a lease needs one that was opened for reading only.
	own, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(f.Handle.Fd())), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, attempt{what: "attach to " + f.Path}.refused(err)
	}
	f.Handle = own
	g := &guard{file: own, described: f}
	switch err := g.lease(); {
	case errors.Is(err, unix.EAGAIN):
		own.Close()
		return nil, beingWritten(f.Path)
	case err != nil:
		g.unleased = whyNoLease(err)
	}
	for _, site := range f.Sites {
		g.offsets = append(append(g.offsets, site.Offset), site.Returns...)
		if site.Inner != nil {
			g.offsets = append(g.offsets, site.Inner.Offset)
		}
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
	return "the kernel gives no lease: " + target.Innermost(err)
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
	g.looking.Lock()
	defer g.looking.Unlock()
	if g.closed {
		return false // let go meanwhile
	}
	now, err := target.StampOf(g.file)
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
	return err != nil || code != g.code
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

// admit lets writers in.
func (g *guard) admit() {
	if g.unleased != "" {
		return
	}
	// It can only fail where there is no lease.
	_ = g.control(func(fd uintptr) error {
		_, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
		return err
	})
}

// release gives up everything.
func (g *guard) release() {
	if g == nil {
		return
	}
	g.admit() // a child between fork and exec may have the descriptor too, so that closing it is not enough
	g.looking.Lock()
	defer g.looking.Unlock()
	g.closed = true
	g.file.Close()
}

// reason says why there is no lease, "" where there is one.
func (g *guard) reason() string {
	if g == nil {
		return ""
	}
	return g.unleased
}
