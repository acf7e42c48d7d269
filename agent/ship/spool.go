package ship

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	lockName = "lock"
	// maxPendingBatches bounds the index in memory (about 16 MiB): 14 hours at five batches a second.
	maxPendingBatches = 256 << 10
	// freshBytes is the size at which a segment whose batches all have receipts is replaced: it bounds
	// what is sent twice after a kill.
	freshBytes = 256 << 10
)

// spool is the ordered set of batches that have no receipt. All fields are under mu.
type spool struct {
	dir   string
	limit int64
	epoch uint64
	lock  *os.File

	mu       sync.Mutex
	segments []*segment // oldest first
	current  *segment   // being written; nil before the first batch
	reading  *segment   // an older segment that is open
	pending  []*entry   // oldest first, those done are trimmed from the front
	cursor   int        // in pending: the next to send
	flight   map[batchID]*entry
	bytes    int64
	seq      uint64
	changed  chan struct{} // closed and replaced at each change

	spooled, receipted, rejected, recovered uint64
	sealed, receiptedBatches, torn          uint64
	dropped                                 map[string]uint64
}

type batchID struct{ epoch, seq uint64 }

func openSpool(dir string, limit int64, epoch uint64) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: create %s: %w", ErrSpool, dir, err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: write to %s: %w (give the agent a data directory it may write)", ErrSpool, dir, err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%w: %s is in use by another agent (%w); give each its own data directory", ErrSpool, dir, err)
	}
	s := &spool{dir: dir, limit: limit, epoch: epoch, lock: lock, flight: map[batchID]*entry{},
		changed: make(chan struct{}), dropped: map[string]uint64{}}
	if err := s.recover(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%w: %w", ErrSpool, err)
	}
	return s, nil
}

// recover takes over the segments of earlier runs, in the order they were written.
func (s *spool) recover() error {
	names, err := os.ReadDir(s.dir) // Sorted by name, which is by epoch and seq.
	if err != nil {
		return err
	}
	for _, n := range names {
		if !strings.HasSuffix(n.Name(), segmentSuffix) || !n.Type().IsRegular() {
			continue
		}
		seg, found, err := openSegment(filepath.Join(s.dir, n.Name()))
		if err != nil {
			return fmt.Errorf("read segment %s: %w", n.Name(), err)
		}
		s.torn += found.tornBytes
		s.recovered += found.damagedCalls
		s.lose(DropSpoolRead, found.damagedCalls)
		s.epoch = max(s.epoch, seg.epoch+1)
		seg.pending = len(found.entries)
		s.segments = append(s.segments, seg)
		s.bytes += seg.bytes
		for _, e := range found.entries {
			s.pending = append(s.pending, e)
			s.recovered += uint64(e.count)
			s.spooled += uint64(e.count)
		}
		if seg.pending == 0 {
			s.remove(seg)
		}
	}
	s.fit(0)
	return nil
}

// append stores a sealed batch under the next seq.
func (s *spool) append(count uint32, sealed time.Time, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := int64(recordHead + len(payload))
	if size+int64(segmentHead) > s.limit {
		return fmt.Errorf("a batch of %d bytes exceeds the spool's limit of %d bytes", size, s.limit)
	}
	if s.current != nil && s.current.bytes+size > s.segmentBytes() {
		s.rotate()
	}
	s.fit(size + int64(segmentHead))
	if s.current == nil {
		seg, err := createSegment(filepath.Join(s.dir, segmentName(s.epoch, s.seq+1)), s.epoch)
		if err != nil {
			return err
		}
		s.current, s.segments, s.bytes = seg, append(s.segments, seg), s.bytes+seg.bytes
	}
	seg := s.current
	rec := appendRecord(make([]byte, 0, size), s.seq+1, count, sealed, payload)
	if _, err := seg.file.WriteAt(rec, seg.bytes); err != nil {
		// A torn record would end the segment for a later reader, so cut it off or write elsewhere.
		if seg.file.Truncate(seg.bytes) != nil {
			s.rotate()
		}
		return err
	}
	s.seq++
	s.pending = append(s.pending, &entry{seg: seg, seq: s.seq, offset: seg.bytes, bytes: uint32(len(payload)), count: count})
	seg.bytes += size
	seg.pending++
	s.bytes += size
	s.spooled += uint64(count)
	s.sealed++
	s.broadcast()
	return nil
}

func (s *spool) segmentBytes() int64 { return min(maxSegmentBytes, s.limit/8) }

// rotate ends the current segment; it goes when its last receipt comes.
func (s *spool) rotate() {
	seg := s.current
	s.current = nil
	if seg.pending == 0 {
		s.remove(seg)
	} else if seg != s.reading {
		seg.close()
	}
}

// fit drops the oldest segments until size more bytes are within the limit.
func (s *spool) fit(size int64) {
	for len(s.segments) > 0 && (s.bytes+size > s.limit || len(s.pending) >= maxPendingBatches) {
		seg := s.segments[0]
		for _, e := range s.pending {
			// A batch in flight has left the disk but may still be receipted; rewind decides.
			if e.seg == seg && !e.done && !e.sent {
				s.finish(e)
				s.lose(DropSpoolFull, uint64(e.count))
			}
		}
		if s.current == seg {
			s.current = nil
		}
		s.remove(seg)
		s.trim()
	}
}

// next returns the oldest batch that is not in flight, or nil.
func (s *spool) next() (*entry, record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; s.cursor < len(s.pending); s.cursor++ {
		e := s.pending[s.cursor]
		if e.done || e.sent {
			continue
		}
		if e.seg != s.reading && s.reading != nil && s.reading != s.current {
			s.reading.close()
		}
		s.reading = e.seg
		r, err := e.read()
		if err != nil {
			s.finish(e)
			s.lose(DropSpoolRead, uint64(e.count))
			continue
		}
		return e, r
	}
	return nil, record{}
}

// launch marks a batch as in flight; false says that it has been dropped since next returned it.
func (s *spool) launch(e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.done {
		return false
	}
	e.sent = true
	s.flight[batchID{e.seg.epoch, e.seq}] = e
	return true
}

// refuse drops a batch that the collector cannot take.
func (s *spool) refuse(e *entry, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !e.done {
		s.finish(e)
		s.lose(reason, uint64(e.count))
		s.trim()
	}
}

// receipt removes a batch for which the collector answers from now on; release gets its size before
// anyone is told. A receipt for what is not in flight is ignored.
func (s *spool) receipt(epoch, seq uint64, rejected uint32, release func(bytes uint32)) (known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := batchID{epoch, seq}
	e, ok := s.flight[id]
	if !ok {
		return false
	}
	delete(s.flight, id)
	release(e.bytes)
	rejected = min(rejected, e.count)
	s.finish(e)
	s.receiptedBatches++
	s.rejected += uint64(rejected)
	s.receipted += uint64(e.count - rejected)
	s.trim()
	return true
}

// rewind returns what is in flight to the queue: the stream it was on has ended.
func (s *spool) rewind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, e := range s.flight {
		delete(s.flight, id)
		e.sent = false
		if e.seg.gone {
			s.finish(e)
			s.lose(DropSpoolFull, uint64(e.count))
		}
	}
	s.cursor = 0
	s.trim()
}

// finish takes an entry out of the account of what is spooled.
func (s *spool) finish(e *entry) {
	e.done = true
	s.spooled -= uint64(e.count)
	e.seg.pending--
	if e.seg.pending == 0 {
		switch {
		case e.seg != s.current:
			s.remove(e.seg)
		case e.seg.bytes > freshBytes:
			s.rotate()
		}
	}
	s.broadcast()
}

func (s *spool) trim() {
	for len(s.pending) > 0 && s.pending[0].done {
		s.pending[0] = nil
		s.pending = s.pending[1:]
		s.cursor = max(0, s.cursor-1)
	}
}

func (s *spool) remove(seg *segment) {
	if seg.gone {
		return
	}
	seg.gone = true
	seg.close()
	if s.reading == seg {
		s.reading = nil
	}
	s.bytes -= seg.bytes
	for i, other := range s.segments {
		if other == seg {
			s.segments = append(s.segments[:i], s.segments[i+1:]...)
			break
		}
	}
	os.Remove(seg.path) // What cannot be removed is sent again after a restart and counted once.
}

func (s *spool) lose(reason string, calls uint64) {
	if calls > 0 {
		s.dropped[reason] += calls
	}
}

func (s *spool) broadcast() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// watch says whether every batch has its receipt, or tells of the next change.
func (s *spool) watch() (empty bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spooled == 0, s.changed
}

func (s *spool) counts(c *Counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Recovered, c.Spooled, c.Receipted, c.Rejected = s.recovered, s.spooled, s.receipted, s.rejected
	c.BatchesSealed, c.BatchesReceipted, c.SpoolBytes, c.TornBytes = s.sealed, s.receiptedBatches, uint64(s.bytes), s.torn
	for reason, n := range s.dropped {
		c.Dropped[reason] = n
	}
}

// close leaves unreceipted batches on disk for the next run.
func (s *spool) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.current != nil {
		if s.current.pending == 0 {
			s.remove(s.current)
		} else {
			err = s.current.close()
		}
		s.current = nil
	}
	if s.reading != nil {
		err = errors.Join(err, s.reading.close())
	}
	err = errors.Join(err, s.lock.Close())
	if err != nil && !errors.Is(err, fs.ErrClosed) {
		return fmt.Errorf("close spool in %s: %w", s.dir, err)
	}
	return nil
}
