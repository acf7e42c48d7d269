package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
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

// Record is one event and its payload, which is valid until the next Read.
type Record struct {
	Event Event
	Data  []byte
	raw   ringbuf.Record
}

var (
	// ErrDrained says that the rings were read up to what they held when this turn began. It is no failure:
	// the next Read begins a turn and waits up to 10 ms.
	ErrDrained = errors.New("drained")
	// ErrMalformed is a record that does not fit event.h. The next Read goes on after it.
	ErrMalformed = errors.New("malformed record")
)

const drainInterval = 10 * time.Millisecond

// Reader reads both rings in turns. A turn takes the control ring first and then the data ring up to where it
// ended at that moment: so all data that precede a control event are read in the same turn, after it. One
// goroutine reads.
type Reader struct {
	control, data *ringbuf.Reader
	epoll, wake   int
	phase         phase
	left          int // bytes of the data ring that belong to this turn
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
	r := &Reader{epoll: -1, wake: -1}
	defer func() {
		if err != nil {
			r.free()
		}
	}()
	if r.control, err = ringbuf.NewReader(o.maps["control_ring"]); err != nil {
		return nil, fmt.Errorf("open the control ring: %w", err)
	}
	if r.data, err = ringbuf.NewReader(o.maps["data_ring"]); err != nil {
		return nil, fmt.Errorf("open the data ring: %w", err)
	}
	// A deadline in the past: their own waiting is never used.
	r.control.SetDeadline(time.Unix(1, 0))
	r.data.SetDeadline(time.Unix(1, 0))
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	for _, fd := range []int{r.wake, o.maps["control_ring"].FD(), o.maps["data_ring"].FD()} {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err := unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			return nil, fmt.Errorf("watch the rings: %w", err)
		}
	}
	return r, nil
}

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
			err := r.control.ReadInto(&into.raw)
			if err == nil {
				return into.decode()
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("read the control ring: %w", err)
			}
			r.left = r.data.AvailableBytes()
			r.phase = readingData
		case readingData:
			if r.left <= 0 {
				r.phase = waiting
				return ErrDrained
			}
			err := r.data.ReadInto(&into.raw)
			if err == nil {
				r.left -= ringHeaderBytes + (len(into.raw.RawSample)+7)&^7
				return into.decode()
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("read the data ring: %w", err)
			}
			r.left = 0
		}
	}
}

// The kernel keeps 8 bytes before each record of a ring buffer.
const ringHeaderBytes = 8

// wait sleeps until the watermark is crossed, a process begins or ends, Close is called, or 10 ms have passed:
// ordinary data do not wake anyone.
func (r *Reader) wait() error {
	if r.data.AvailableBytes() >= wakeupBytes {
		return nil
	}
	var events [3]unix.EpollEvent
	_, err := unix.EpollWait(r.epoll, events[:], int(drainInterval.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for the rings: %w", err)
	}
	return nil
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
	for _, ring := range []*ringbuf.Reader{r.control, r.data} {
		if ring != nil {
			errs = append(errs, ring.Close())
		}
	}
	for _, fd := range []int{r.epoll, r.wake} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the rings: %w", err)
	}
	return nil
}

// As WAKEUP_BYTES in ring.h.
const wakeupBytes = 256 << 10

func (rec *Record) decode() error {
	raw := rec.raw.RawSample
	if len(raw) < eventBytes {
		return fmt.Errorf("%w: %d bytes", ErrMalformed, len(raw))
	}
	// The ring keeps records aligned to 8 bytes and so does the copy; the struct has no pointers.
	rec.Event = *(*Event)(unsafe.Pointer(unsafe.SliceData(raw)))
	if uint64(rec.Event.Captured) > uint64(len(raw)-eventBytes) {
		return fmt.Errorf("%w: %d of %d bytes captured", ErrMalformed, rec.Event.Captured, len(raw)-eventBytes)
	}
	rec.Data = raw[eventBytes : eventBytes+int(rec.Event.Captured)]
	return nil
}
