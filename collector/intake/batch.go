package intake

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spile/spile/proto/columns"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// errRefused says that a batch can never be stored; the agent must not send it again.
var errRefused = errors.New("refused")

// coder is what turns payloads around; one goroutine uses it at a time.
type coder struct {
	enc *columns.Encoder
	dec *columns.Decoder
	err error
}

func newCoder() *coder {
	var c coder
	var encErr, decErr error
	c.enc, encErr = columns.NewEncoder()
	c.dec, decErr = columns.NewDecoder()
	c.err = errors.Join(encErr, decErr)
	return &c
}

// part is a record and where it goes.
type part struct {
	partition int
	record    Record
}

// prepare checks a batch and makes the records of it. refused calls are those that are left out.
func (s *Server) prepare(c *coder, node string, b *v1.Batch) (parts []part, refused uint32, why error) {
	if c.err != nil {
		return nil, 0, c.err
	}
	if len(b.Payload) > int(s.cfg.MaxBatchBytes) {
		return nil, b.Count, fmt.Errorf("%w: payload of %d bytes exceeds %d", errRefused, len(b.Payload), s.cfg.MaxBatchBytes)
	}
	if b.Count == 0 || b.Count > columns.MaxCalls {
		return nil, b.Count, fmt.Errorf("%w: a batch holds 1 to %d calls, not %d", errRefused, columns.MaxCalls, b.Count)
	}
	calls, err := c.dec.Decode(b.Payload)
	if err != nil {
		return nil, b.Count, fmt.Errorf("%w: %w", errRefused, err)
	}
	if uint32(len(calls)) != b.Count {
		return nil, b.Count, fmt.Errorf("%w: batch says %d calls and holds %d", errRefused, b.Count, len(calls))
	}
	var groups [Partitions][]*v1.Call
	now := s.cfg.Now()
	for _, call := range calls {
		if err := s.accept(call, now); err != nil {
			refused++
			why = fmt.Errorf("%w: %w", errRefused, err)
			continue
		}
		call.Node = node
		call.Service = Service(call)
		p := Partition(call.Service)
		groups[p] = append(groups[p], call)
	}
	for p, group := range groups {
		if len(group) == 0 {
			continue
		}
		payload, err := c.enc.Encode(nil, group)
		if err == nil && len(payload) > int(s.cfg.MaxBatchBytes) {
			err = columns.ErrTooLarge
		}
		if err != nil {
			// Only a batch that another encoder packed beyond reason comes out too large.
			return nil, b.Count, fmt.Errorf("%w: encode for the journal: %w", errRefused, err)
		}
		first, last := span(group)
		parts = append(parts, part{p, Record{Agent: node, Epoch: b.Epoch, Seq: b.Seq, Payload: payload, Count: uint32(len(group)), Min: first, Max: last}})
	}
	return parts, refused, why
}

var errClock = errors.New("time of the call is out of range: check the node's clock")

// accept refuses what would poison the state: a time that no live capture can have.
func (s *Server) accept(c *v1.Call, now time.Time) error {
	if err := columns.Check(c); err != nil {
		return err
	}
	if t := c.Time.AsTime(); t.After(now.Add(s.cfg.MaxAhead)) || t.Before(now.Add(-s.cfg.MaxAge)) {
		return errClock
	}
	return nil
}

func span(calls []*v1.Call) (first, last time.Time) {
	for i, c := range calls {
		t := c.Time.AsTime()
		if i == 0 || t.Before(first) {
			first = t
		}
		if i == 0 || t.After(last) {
			last = t
		}
	}
	return first, last
}

var errPanic = errors.New("the journal failed unexpectedly")

// maxAppends bounds the journal writes of one batch that run at once.
const maxAppends = 8

// store appends all parts, parts of one partition in order. It returns when every append has.
func (s *Server) store(ctx context.Context, parts []part) error {
	if len(parts) == 1 {
		return s.cfg.Journal.Append(ctx, parts[0].partition, parts[0].record)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	slots := make(chan struct{}, maxAppends)
	for len(parts) > 0 {
		n := 1
		for n < len(parts) && parts[n].partition == parts[0].partition {
			n++
		}
		group := parts[:n]
		parts = parts[n:]
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			defer func() {
				if r := recover(); r != nil {
					s.panicked(r)
					cancel(errPanic)
				}
			}()
			for _, p := range group {
				if ctx.Err() != nil {
					return
				}
				if err := s.cfg.Journal.Append(ctx, p.partition, p.record); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}
