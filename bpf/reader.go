package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Event is the fixed part of what the kernel says (event.h).
type Event = procEvent

// Values of Event.Kind.
const (
	EventData  = 1
	EventClose = 2 // Offset and Heads are of the egress direction, PeerOffset and PeerHeads of ingress
	EventExec  = 3 // Offset and PeerOffset are device and inode of the executable
	EventExit  = 4
)

const eventBytes = int(unsafe.Sizeof(Event{}))

// Record is one event and its payload, which lies in the ring: it must not be written to, and is valid until the next
// Read or Close.
type Record struct {
	Event Event
	Data  []byte
}

var (
	// ErrDrained says that the rings were read up to what they held when this turn began. It is no failure:
	// the next Read begins a turn and waits up to 20 ms, or 50 ms where all has been silent for a second.
	ErrDrained = errors.New("drained")
	// ErrMalformed is a record that does not fit event.h. The next Read goes on after it.
	ErrMalformed = errors.New("malformed record")
)

const (
	// Each waking of an idle program has the runtime look around every 20 us for a while: at 100 a second that, and the
	// waking itself, was a sixth of the agent's time under load.
	drainInterval = 20 * time.Millisecond
	// Silence costs most of what an idle agent takes. The watermark wakes it all the same.
	idleInterval = 50 * time.Millisecond
	idleTurns    = int(time.Second / drainInterval)
)

// Reader reads both rings in turns. A turn takes the control ring first and then the data ring up to where it
// ended at that moment: so all data that precede a control event are read in the same turn, after it. One
// goroutine reads.
type Reader struct {
	control, data *ring
	events        *os.File // an epoll of both rings and of wake; its goroutine waits in the runtime's own poller
	ready         syscall.RawConn
	wake          int
	phase         phase
	silent        int    // turns that had nothing
	until         uint64 // where the data of this turn end
	mu            sync.Mutex
	closed        atomic.Bool
}

type phase uint8

const (
	waiting phase = iota
	readingControl
	readingData
)

// Reader returns the only reader of both rings.
func (o *Objects) Reader() (_ *Reader, err error) {
	r := &Reader{wake: -1}
	defer func() {
		if err != nil {
			r.free()
		}
	}()
	control, data := o.maps["control_ring"], o.maps["data_ring"]
	if r.control, err = openRing(control); err != nil {
		return nil, fmt.Errorf("open the control ring: %w", err)
	}
	if r.data, err = openRing(data); err != nil {
		return nil, fmt.Errorf("open the data ring: %w", err)
	}
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	if err := r.watch(r.wake, control.FD(), data.FD()); err != nil {
		return nil, fmt.Errorf("watch the rings: %w", err)
	}
	return r, nil
}

// watch makes the epoll. A system call that waits would have the runtime look every 10 ms whether it still does, and move
// the reader from thread to thread: half of what an idle agent takes. So the epoll is waited for by the runtime's epoll.
func (r *Reader) watch(fds ...int) error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(epoll, true); err != nil {
		return errors.Join(err, unix.Close(epoll))
	}
	r.events = os.NewFile(uintptr(epoll), "rings")
	for _, fd := range fds {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			return err
		}
	}
	if r.ready, err = r.events.SyscallConn(); err != nil {
		return err
	}
	return r.events.SetReadDeadline(time.Time{}) // says whether the runtime takes it
}

func openRing(m *ebpf.Map) (*ring, error) { return mapRing(m.FD(), int(m.MaxEntries())) }

// Read returns the next record, ErrDrained at the end of a turn, or os.ErrClosed after Close.
func (r *Reader) Read(into *Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if r.closed.Load() {
			return os.ErrClosed
		}
		switch r.phase {
		case waiting:
			if err := r.wait(); err != nil {
				return err
			}
			r.phase = readingControl
		case readingControl:
			raw, err := r.take(r.control)
			if err == nil {
				return into.decode(raw)
			}
			if err != errRingEmpty {
				return err
			}
			r.until = r.data.end()
			r.silent++
			r.phase = readingData
		case readingData:
			if int64(r.until-r.data.at) <= 0 {
				r.data.release()
				r.phase = waiting
				return ErrDrained
			}
			raw, err := r.take(r.data)
			if err == nil {
				r.silent = 0
				return into.decode(raw)
			}
			if err != errRingEmpty {
				return err
			}
			r.until = r.data.at
		}
	}
}

// take returns the next record of a ring. One that is being written is waited for: what follows it may be older than a
// control event of this turn. It takes microseconds, or until its processor is given back to who writes it.
func (r *Reader) take(from *ring) ([]byte, error) {
	for tries := 0; ; tries++ {
		raw, err := from.next()
		if err != errRingBusy {
			return raw, err
		}
		if r.closed.Load() {
			return nil, os.ErrClosed
		}
		if tries >= busySpins {
			time.Sleep(busySleep)
		}
	}
}

const (
	busySpins = 100
	busySleep = 50 * time.Microsecond
)

// wait sleeps until the watermark is crossed, a process begins or ends, Close is called, or the interval has passed:
// ordinary data do not wake anyone.
func (r *Reader) wait() error {
	if r.data.waiting() >= wakeupBytes {
		return nil
	}
	interval := drainInterval
	if r.silent > idleTurns {
		interval = idleInterval
	}
	err := r.events.SetReadDeadline(time.Now().Add(interval))
	if err == nil {
		err = r.ready.Read(signalled)
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("wait for the rings: %w", err)
	}
	return nil
}

// signalled asks an epoll whether something has happened. It does not wait, so the runtime need not hear of the system
// call: told of it, it would look for one that hangs, some fifty times at 20 us, after each.
func signalled(epoll uintptr) bool {
	var events [3]unix.EpollEvent
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, epoll, uintptr(unsafe.Pointer(&events)), uintptr(len(events)), 0, 0, 0)
	return errno != 0 && errno != unix.EINTR || errno == 0 && n > 0
}

// Close wakes a Read that waits and frees the rings' mappings. What they still hold is not read.
func (r *Reader) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	// The only failure is a full counter, which wakes as well.
	_, _ = unix.Write(r.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.free()
}

func (r *Reader) free() error {
	var errs []error
	for _, ring := range []*ring{r.control, r.data} {
		if ring != nil {
			errs = append(errs, ring.close())
		}
	}
	if r.events != nil {
		errs = append(errs, r.events.Close())
	}
	if r.wake >= 0 {
		errs = append(errs, unix.Close(r.wake))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the rings: %w", err)
	}
	return nil
}

// As WAKEUP_BYTES in ring.h.
const wakeupBytes = 512 << 10

func (rec *Record) decode(raw []byte) error {
	if len(raw) < eventBytes {
		return fmt.Errorf("%w: %d bytes", ErrMalformed, len(raw))
	}
	// The ring keeps records aligned to 8 bytes, and so is what is put together of two pieces; the struct has no pointers.
	rec.Event = *(*Event)(unsafe.Pointer(unsafe.SliceData(raw)))
	if uint64(rec.Event.Captured) > uint64(len(raw)-eventBytes) {
		return fmt.Errorf("%w: %d of %d bytes captured", ErrMalformed, rec.Event.Captured, len(raw)-eventBytes)
	}
	rec.Data = raw[eventBytes : eventBytes+int(rec.Event.Captured)]
	return nil
}
