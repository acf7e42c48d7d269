package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring is the reading end of a BPF ring buffer (kernel/bpf/ringbuf.c).
//
//	consumer page │ producer page │ data …        │ the same data …
//	  read-write  │   read-only   │ read-only: u32 length │ busy │ discard, u32 of the kernel's, bytes; in multiples of 8
//
// What a process maps of a ring counts as its resident memory, all of it and twice where it maps both rows of data. So
// only a view of some of the data is mapped, from where the next record begins, and moved when a record goes over its
// end. The second row makes one piece of a record that goes over the end of the first.
type ring struct {
	consumer, producer *uint64 // bytes since the ring was made
	size               uint64
	at                 uint64 // where the next record begins; the consumer position follows it in release
	released           uint64
	view               []byte // data from position begin on
	mapped             uintptr
	begin              uint64
	viewBytes          int
	fd                 int       // of our own
	pages              [2][]byte // consumer's and producer's
}

const (
	ringBusy        = 1 << 31 // reserved and not committed
	ringDiscard     = 1 << 30
	ringHeaderBytes = 8
	// ringViewBytes is what a view holds. Moving it costs 1.5 us a page, whatever it holds: 0.2 us for an event of a small
	// call, and as much as the copy that it saves for one of 16 KiB.
	ringViewBytes = 256 << 10
)

var (
	errRingEmpty = errors.New("ring is empty")
	errRingBusy  = errors.New("record is being written")
)

// mapRing opens the ring of a map with that many bytes of data, a power of two of pages.
func mapRing(fd, size int) (*ring, error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate the map: %w", err)
	}
	r := &ring{fd: own, size: uint64(size), viewBytes: min(size, ringViewBytes)}
	page := os.Getpagesize()
	if r.pages[0], err = unix.Mmap(own, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, errors.Join(fmt.Errorf("map the consumer's page: %w", err), r.close())
	}
	if r.pages[1], err = unix.Mmap(own, int64(page), page, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, errors.Join(fmt.Errorf("map the producer's page: %w", err), r.close())
	}
	r.consumer, r.producer = (*uint64)(unsafe.Pointer(&r.pages[0][0])), (*uint64)(unsafe.Pointer(&r.pages[1][0]))
	r.at = atomic.LoadUint64(r.consumer) &^ 7
	r.released = r.at
	if err := r.move(0); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// move maps the data from the next record on, and at least so many bytes of them, which are no more than the ring has.
func (r *ring) move(bytes uint64) error {
	if err := r.unmap(); err != nil {
		return err
	}
	page := uint64(os.Getpagesize())
	r.begin = r.at &^ (page - 1)
	length := max(uint64(r.viewBytes), (r.at-r.begin+bytes+page-1)&^(page-1))
	at, _, errno := unix.RawSyscall6(unix.SYS_MMAP, 0, uintptr(length), unix.PROT_READ, unix.MAP_SHARED, uintptr(r.fd), uintptr(2*page+(r.begin&(r.size-1))))
	if errno != 0 {
		return fmt.Errorf("map %d bytes of data: %w", length, errno)
	}
	r.mapped, r.view = at, unsafe.Slice((*byte)(pointer(at)), length)
	return nil
}

// unmap takes the view away. It and move take some 100 us and never wait, so the runtime is not told of the system calls:
// it would give this goroutine's processor to another thread each time, and look every 20 us whether to do so again.
func (r *ring) unmap() error {
	if r.view == nil {
		return nil
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_MUNMAP, r.mapped, uintptr(len(r.view)), 0); errno != 0 {
		return fmt.Errorf("unmap data: %w", errno)
	}
	r.view = nil
	return nil
}

// pointer makes a pointer of an address outside of Go's memory, which does not move.
func pointer(address uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&address)) }

// see moves the view where it does not hold that many bytes from the next record on.
func (r *ring) see(bytes uint64) error {
	if from := r.at - r.begin; from > uint64(len(r.view)) || bytes > uint64(len(r.view))-from {
		return r.move(bytes)
	}
	return nil
}

// end is where what was reserved so far ends. Positions are multiples of 8, whatever the page says.
func (r *ring) end() uint64 { return atomic.LoadUint64(r.producer) &^ 7 }

// waiting is how many bytes are reserved and not read.
func (r *ring) waiting() uint64 { return r.end() - r.at }

// release gives the room of what was read back to the kernel.
func (r *ring) release() {
	if r.released != r.at {
		r.released = r.at
		atomic.StoreUint64(r.consumer, r.at)
	}
}

// next releases the last record and returns the next one, which lies in the ring until it is released; it must not be
// written to. A ring whose positions or lengths contradict each other is skipped to its end, and ErrMalformed says so.
func (r *ring) next() ([]byte, error) {
	for {
		r.release()
		end := r.end()
		left := end - r.at
		if left == 0 {
			return nil, errRingEmpty
		}
		if left > r.size {
			r.at = end
			return nil, fmt.Errorf("%w: %d bytes wait in a ring of %d", ErrMalformed, left, r.size)
		}
		if err := r.see(ringHeaderBytes); err != nil {
			return nil, err
		}
		// A load that acquires: the kernel writes the length by xchg after everything that it says of the record.
		head := atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.view[r.at-r.begin])))
		if head&ringBusy != 0 {
			return nil, errRingBusy
		}
		length := uint64(head &^ ringDiscard)
		whole := (ringHeaderBytes + length + 7) &^ 7
		if whole > left {
			r.at = end
			return nil, fmt.Errorf("%w: a record of %d bytes in the last %d", ErrMalformed, length, left)
		}
		if head&ringDiscard != 0 {
			r.at += whole
			continue
		}
		if err := r.see(whole); err != nil {
			return nil, err
		}
		from := r.at - r.begin + ringHeaderBytes
		r.at += whole
		return r.view[from : from+length : from+length], nil
	}
}

// close unmaps the ring, and with it the record that was read last.
func (r *ring) close() error {
	var errs []error
	errs = append(errs, r.unmap())
	for _, m := range r.pages {
		if m != nil {
			errs = append(errs, unix.Munmap(m))
		}
	}
	errs = append(errs, unix.Close(r.fd))
	*r = ring{}
	return errors.Join(errs...)
}
