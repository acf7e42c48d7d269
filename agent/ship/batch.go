package ship

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spile/spile/proto/columns"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// batchLoop collects calls into batches until ctx ends.
func (s *Shipper) batchLoop(ctx context.Context) error {
	enc, err := columns.NewEncoder()
	if err != nil {
		return fmt.Errorf("make batch encoder: %w", err)
	}
	b := batcher{s: s, enc: enc, calls: make([]*v1.Call, 0, s.cfg.MaxCalls)}
	timer := time.NewTimer(s.cfg.MaxDelay)
	timer.Stop()
	defer timer.Stop()
	waiting := false // the timer runs: calls wait for MaxDelay to pass
	for {
		select {
		case <-s.inbox.came:
			if s.inbox.len() >= s.inbox.enough {
				b.takeAll()
				waiting = false
			}
			if !waiting && len(b.calls)+s.inbox.len() > 0 {
				timer.Reset(s.cfg.MaxDelay)
				waiting = true
			}
		case <-timer.C:
			waiting = false
			b.takeAll()
			b.seal()
		case done := <-s.flush:
			b.takeAll()
			b.seal()
			close(done)
		case <-ctx.Done():
			s.closed.Store(true)
			b.takeAll()
			b.seal()
			return nil
		}
	}
}

// batcher owns the open batch and the encoder.
type batcher struct {
	s     *Shipper
	enc   *columns.Encoder
	calls []*v1.Call
	taken []*v1.Call
	buf   []byte
}

// takeAll empties the inbox, and seals each batch that it fills.
func (b *batcher) takeAll() {
	b.taken = b.s.inbox.take(b.taken)
	b.s.batching.Add(int64(len(b.taken)))
	for _, c := range b.taken {
		if b.calls = append(b.calls, c); len(b.calls) >= b.s.cfg.MaxCalls {
			b.seal()
		}
	}
	clear(b.taken)
}

// seal writes the open batch and hands back its calls; those that were dropped as they cannot be sent have left it.
func (b *batcher) seal() {
	whole := b.calls
	b.write(b.calls)
	if b.s.cfg.Done != nil {
		b.s.cfg.Done(whole)
	}
	clear(b.calls)
	b.calls = b.calls[:0]
}

// write encodes calls into the spool; calls that cannot be encoded are dropped one by one, batches
// that are too large are halved.
func (b *batcher) write(calls []*v1.Call) {
	for len(calls) > 0 {
		payload, err := b.enc.Encode(b.buf[:0], calls)
		var bad *columns.CallError
		if errors.As(err, &bad) {
			b.lose(DropInvalid, 1)
			b.s.notice(fmt.Errorf("drop a call that cannot be sent: %w", bad.Err))
			last := len(calls) - 1
			copy(calls[bad.Index:], calls[bad.Index+1:])
			calls[last] = nil // no call is handed to Done twice
			calls = calls[:last]
			continue
		}
		if err != nil || len(payload) > maxPayloadBytes {
			if len(calls) == 1 {
				b.lose(DropTooLarge, 1)
				return
			}
			b.write(calls[: len(calls)/2 : len(calls)/2])
			calls = calls[len(calls)/2:]
			continue
		}
		b.buf = payload
		n := uint64(len(calls))
		if err := b.s.spool.append(uint32(n), time.Now(), payload); err != nil {
			b.lose(DropSpoolWrite, n)
			b.s.notice(fmt.Errorf("write spool in %s: %w (calls are dropped until there is room)", b.s.cfg.SpoolDir, err))
			return
		}
		b.s.batching.Add(-int64(n))
		return
	}
}

func (b *batcher) lose(reason string, calls uint64) {
	b.s.drop(reason, calls)
	b.s.batching.Add(-int64(calls))
}
