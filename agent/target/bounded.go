package target

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrBudget says that a file asked for more reading than it is worth.
var ErrBudget = errors.New("the file exceeds the reading budget")

// Budget bounds what one look into a file may cost. The files belong to the watched programs.
type Budget struct {
	Bytes int64
	Time  time.Duration
}

// DefaultBudget is generous for real libraries: OpenSSL's needs about 100 KiB. The time is for a host that is short of
// processors, where a library must not stay unseen because it was looked at in a bad moment; the bytes bound the work.
func DefaultBudget() Budget { return Budget{Bytes: 8 << 20, Time: 3 * time.Second} }

const (
	blockSize  = 16 << 10
	blockCount = 16
)

// bounded reads through a small cache of blocks, and pays for each block from the budget.
type bounded struct {
	src      io.ReaderAt
	left     int64
	deadline time.Time
	blocks   [blockCount]struct {
		number int64 // 1 + index of the block; 0 = empty
		data   []byte
	}
}

func newBounded(src io.ReaderAt, b Budget) *bounded {
	return &bounded{src: src, left: b.Bytes, deadline: time.Now().Add(b.Time)}
}

// again reads the same file with what is left of the budget, which stays as it is.
func (b *bounded) again() *bounded {
	return &bounded{src: b.src, left: b.left, deadline: b.deadline}
}

// onTime is for loops that run long on what is cached.
func (b *bounded) onTime() error {
	if time.Now().After(b.deadline) {
		return fmt.Errorf("%w: time", ErrBudget)
	}
	return nil
}

func (b *bounded) block(index int64) ([]byte, error) {
	slot := &b.blocks[index%blockCount]
	if slot.number == index+1 {
		return slot.data, nil
	}
	if err := b.onTime(); err != nil {
		return nil, err
	}
	if b.left < blockSize {
		return nil, fmt.Errorf("%w: bytes", ErrBudget)
	}
	b.left -= blockSize
	if slot.data == nil {
		slot.data = make([]byte, blockSize)
	}
	slot.number = 0
	buf := slot.data[:blockSize]
	n, err := b.src.ReadAt(buf, index*blockSize)
	if n == 0 && err != nil {
		return nil, err
	}
	slot.data = buf[:n]
	slot.number = index + 1
	return slot.data, nil
}

// read fills p from offset, or fails.
func (b *bounded) read(p []byte, offset uint64) error {
	if offset > 1<<62 || uint64(len(p)) > 1<<62-offset {
		return io.ErrUnexpectedEOF
	}
	for len(p) > 0 {
		data, err := b.block(int64(offset / blockSize))
		if err != nil {
			return err
		}
		within := int(offset % blockSize)
		if within >= len(data) {
			return io.ErrUnexpectedEOF
		}
		n := copy(p, data[within:])
		p = p[n:]
		offset += uint64(n)
	}
	return nil
}

// isText reports whether want and a NUL stand at offset.
func (b *bounded) isText(want string, offset uint64) (bool, error) {
	got := make([]byte, len(want)+1)
	if err := b.read(got, offset); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return false, nil
		}
		return false, err
	}
	return string(got[:len(want)]) == want && got[len(want)] == 0, nil
}
