package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring is the reading end of a BPF ring buffer (kernel/bpf/ringbuf.c). The kernel maps the pages of the data twice in a
// row, so that a record that goes over the end reads as one piece, and a process that maps them so pays for them twice in
// its resident size. Here they are mapped once: the few records that go over the end are put together in a buffer, all
// others are read where they lie.
//
//	consumer page │ producer page │ data …        record: u32 length │ busy │ discard, u32 of the kernel's, bytes
//	  read-write  │   read-only   │ read-only              every record begins at a multiple of 8
type ring struct {
	consumer, producer *uint64 // bytes since the ring was made
	data               []byte
	at                 uint64 // where the next record begins; the consumer position follows it in release
	released           uint64
	wrapped            []byte // the last record that went over the end
	mapped             [2][]byte
}

const (
	ringBusy        = 1 << 31 // reserved and not committed
	ringDiscard     = 1 << 30
	ringHeaderBytes = 8
)

var (
	errRingEmpty = errors.New("ring is empty")
	errRingBusy  = errors.New("record is being written")
)

// mapRing maps the ring of a map with that many bytes of data.
func mapRing(fd, size int) (*ring, error) {
	page := os.Getpagesize()
	consumer, err := unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the consumer's page: %w", err)
	}
	producer, err := unix.Mmap(fd, int64(page), page+size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map %d bytes of data: %w", size, err), unix.Munmap(consumer))
	}
	r := newRing((*uint64)(unsafe.Pointer(&consumer[0])), (*uint64)(unsafe.Pointer(&producer[0])), producer[page:])
	r.mapped = [2][]byte{consumer, producer}
	return r, nil
}

// newRing reads data, a power of two of bytes that begin at a multiple of 8, from where its consumer stopped.
func newRing(consumer, producer *uint64, data []byte) *ring {
	at := atomic.LoadUint64(consumer) &^ 7
	return &ring{consumer: consumer, producer: producer, data: data, at: at, released: at}
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
		if left > uint64(len(r.data)) {
			r.at = end
			return nil, fmt.Errorf("%w: %d bytes wait in a ring of %d", ErrMalformed, left, len(r.data))
		}
		// A load that acquires: the kernel writes the length by xchg after everything that it says of the record.
		head := atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.data[r.at&r.mask()])))
		if head&ringBusy != 0 {
			return nil, errRingBusy
		}
		length := uint64(head &^ ringDiscard)
		whole := (ringHeaderBytes + length + 7) &^ 7
		if whole > left {
			r.at = end
			return nil, fmt.Errorf("%w: a record of %d bytes in the last %d", ErrMalformed, length, left)
		}
		from := (r.at + ringHeaderBytes) & r.mask()
		r.at += whole
		if head&ringDiscard == 0 {
			return r.piece(from, length), nil
		}
	}
}

func (r *ring) mask() uint64 { return uint64(len(r.data)) - 1 }

// piece is length bytes from there on, where they lie unless they go over the end.
func (r *ring) piece(from, length uint64) []byte {
	if to := from + length; to <= uint64(len(r.data)) {
		return r.data[from:to:to]
	}
	r.wrapped = append(r.wrapped[:0], r.data[from:]...)
	r.wrapped = append(r.wrapped, r.data[:length-uint64(len(r.wrapped))]...)
	return r.wrapped
}

// close unmaps the ring, and with it the record that was read last.
func (r *ring) close() error {
	var errs []error
	for _, m := range r.mapped {
		if m != nil {
			errs = append(errs, unix.Munmap(m))
		}
	}
	*r = ring{}
	return errors.Join(errs...)
}
