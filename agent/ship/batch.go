package ship

import (
	"context"
	"fmt"
	"time"

	"github.com/spile/spile/proto/columns"
)

// writeLoop writes batches into the spool until ctx ends.
func (s *Shipper) writeLoop(ctx context.Context) error {
	enc, err := columns.NewEncoder()
	if err != nil {
		return fmt.Errorf("make batch encoder: %w", err)
	}
	w := writer{s: s, enc: enc}
	timer := time.NewTimer(s.cfg.MaxDelay)
	timer.Stop()
	defer timer.Stop()
	waiting := false // the timer runs: the open batch waits for MaxDelay to pass
	for {
		select {
		case <-s.outbox.came:
			if wrote, open := w.write(); wrote || open && !waiting {
				// After a full batch the open one is new.
				if waiting = open; waiting {
					timer.Reset(s.cfg.MaxDelay)
				} else {
					timer.Stop()
				}
			}
		case <-timer.C:
			waiting = false
			s.outbox.sealAll()
			w.write()
		case done := <-s.flush:
			s.outbox.sealAll()
			w.write()
			close(done)
		case <-ctx.Done():
			s.closed.Store(true)
			s.outbox.sealAll()
			w.write()
			return nil
		}
	}
}

// writer owns the encoder.
type writer struct {
	s   *Shipper
	enc *columns.Encoder
	buf []byte
}

// write writes the sealed batches. It reports whether there were any, and whether calls wait in the open one.
func (w *writer) write() (wrote, open bool) {
	for {
		b, open := w.s.outbox.take()
		if b == nil {
			return wrote, open
		}
		wrote = true
		calls := b.Len()
		w.batch(b)
		w.s.outbox.done(b, calls)
	}
}

func (w *writer) batch(b *columns.Batch) {
	calls := uint64(b.Len())
	payload, err := w.enc.Finish(w.buf[:0], b)
	if err != nil {
		w.s.drop(DropInvalid, calls)
		w.s.notice(fmt.Errorf("drop %d calls that cannot be sent: %w", calls, err))
		return
	}
	w.buf = payload
	if err := w.s.spool.append(uint32(calls), time.Now(), payload); err != nil {
		w.s.drop(DropSpoolWrite, calls)
		w.s.notice(fmt.Errorf("write spool in %s: %w (calls are dropped until there is room)", w.s.cfg.SpoolDir, err))
	}
}
