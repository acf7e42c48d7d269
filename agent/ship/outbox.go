package ship

import (
	"sync"

	"github.com/spile/spile/proto/columns"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// maxSealedBytes may wait for the disk before they are compressed; a batch has 1 MiB at most.
const maxSealedBytes = 8 << 20

// outbox turns calls into batches, in the goroutine that adds them: their memory is at hand then, and can be used again at
// once. The writer is woken by the first call of a batch and by a batch that is full.
type outbox struct {
	mu      sync.Mutex
	open    *columns.Batch // nil = no call waits
	sealed  []*columns.Batch
	spare   *columns.Batch
	bytes   int // of the sealed ones
	waiting int // calls in these
	enough  int // calls that make a batch
	max     int // calls that may wait
	came    chan struct{}
}

// lost is what was not taken, by reason, in calls.
type lost struct {
	full, invalid, tooLarge uint64
	err                     error // why the last was invalid
}

// put takes calls, of which nothing is kept but texts.
func (o *outbox) put(calls []*v1.Call) (l lost) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range calls {
		if o.waiting >= o.max || o.bytes >= maxSealedBytes {
			l.full++
			continue
		}
		switch err := o.add(c); {
		case err == errTooLarge:
			l.tooLarge++
		case err != nil:
			l.invalid++
			l.err = err
		}
	}
	return l
}

func (o *outbox) add(c *v1.Call) error {
	if o.open == nil {
		if o.open = o.spare; o.open == nil {
			o.open = columns.NewBatch()
		}
		o.spare = nil
	}
	if err := o.open.Add(c); err != nil {
		return err
	}
	if o.open.Size() > maxPayloadBytes {
		o.open.Undo()
		if o.open.Len() == 0 {
			return errTooLarge
		}
		o.seal()
		return o.add(c)
	}
	o.waiting++
	if o.open.Len() >= o.enough {
		o.seal()
	} else if o.open.Len() == 1 {
		o.wake()
	}
	return nil
}

// seal ends the open batch.
func (o *outbox) seal() {
	if o.open != nil && o.open.Len() > 0 {
		o.sealed = append(o.sealed, o.open)
		o.bytes += o.open.Size()
		o.open = nil
		o.wake()
	}
}

func (o *outbox) wake() {
	select {
	case o.came <- struct{}{}:
	default:
	}
}

// sealAll ends the open batch, however few calls it has.
func (o *outbox) sealAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seal()
}

// take returns the oldest sealed batch, nil where there is none, and whether calls wait in the open one. Its calls are
// the caller's to account for.
func (o *outbox) take() (b *columns.Batch, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	more = o.open != nil && o.open.Len() > 0
	if len(o.sealed) == 0 {
		return nil, more
	}
	b = o.sealed[0]
	o.sealed = append(o.sealed[:0], o.sealed[1:]...)
	o.bytes -= b.Size()
	return b, more
}

// done takes back a batch that was taken, with that many calls.
func (o *outbox) done(b *columns.Batch, calls int) {
	b.Reset()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting -= calls
	o.spare = b
}

func (o *outbox) len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.waiting
}
