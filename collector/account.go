package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spile/spile/collector/intake"
	"github.com/spile/spile/collector/journal"
	"github.com/spile/spile/collector/query"
	"github.com/spile/spile/collector/route"
	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	measureTimeout = 2 * time.Second
	measureEvery   = 5 * time.Second
	// repeatWindow is how many records apart the two copies of one may be for the second to be recognised.
	repeatWindow = 1 << 16
)

// The room that assigns partitions and the room that keeps them must mean the same.
var _ [intake.Partitions]struct{} = [journal.Partitions]struct{}{}

// appender gives intake the journal.
type appender struct{ *journal.Journal }

// Append implements intake.Journal.
func (a appender) Append(ctx context.Context, partition int, r intake.Record) error {
	return a.Journal.Append(ctx, partition, journal.Record{
		Agent: r.Agent, Epoch: r.Epoch, Seq: r.Seq, Payload: r.Payload, Count: r.Count, Min: r.Min, Max: r.Max})
}

// history decodes what the journal stored. A record that an agent had to send twice is in the journal twice; the second
// is left out here as the owner leaves it out.
func (c *collector) history(ctx context.Context, stored time.Time, yield func(query.Batch) bool) error {
	decode := decoder()
	var known repeats
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := false
	err := c.journal.Scan(ctx, stored, false, func(partition int, seq uint64, r journal.Record) error {
		if !known.first(partition, r) {
			return nil
		}
		calls, err := decode(r.Payload)
		if err != nil {
			// The owner has counted and told it; one bad record must not hide the others.
			return nil
		}
		withRoutes(calls)
		if !yield(query.Batch{Partition: uint32(partition), Seq: seq, Calls: calls}) {
			ended = true
			stop()
			return context.Canceled
		}
		return nil
	})
	if ended {
		return nil
	}
	return err
}

func withRoutes(calls []*v1.Call) {
	for _, call := range calls {
		call.Route = route.Template(call.GetPath())
	}
}

// repeats recognises the second copy of a record among the last repeatWindow ones.
type repeats struct {
	seen  map[recordKey]struct{}
	order []recordKey
	next  int
}

type recordKey struct {
	partition  int
	agent      string
	epoch, seq uint64
}

func (k *repeats) first(partition int, r journal.Record) bool {
	key := recordKey{partition, r.Agent, r.Epoch, r.Seq}
	if _, again := k.seen[key]; again {
		return false
	}
	if k.seen == nil {
		k.seen = map[recordKey]struct{}{}
	}
	if len(k.order) < repeatWindow {
		k.order = append(k.order, key)
	} else {
		delete(k.seen, k.order[k.next])
		k.order[k.next] = key
		k.next = (k.next + 1) % repeatWindow
	}
	k.seen[key] = struct{}{}
	return true
}

// cached is a measurement that is not repeated for everybody who asks.
type cached struct {
	mu    sync.Mutex
	at    time.Time
	value uint64
}

func (m *cached) get(now time.Time, measure func() (uint64, error)) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.at.IsZero() && now.Sub(m.at) < measureEvery {
		return m.value
	}
	if v, err := measure(); err == nil {
		m.value = v
	}
	m.at = now
	return m.value
}

// status is the collector's own account.
func (c *collector) status() *v1.GetStatusResponse {
	in := c.intake.Counts()
	work := c.owners.Stats()
	return &v1.GetStatusResponse{
		Version: c.world.Version, Started: timestamppb.New(c.started), Agents: uint32(min(in.Connected, 1<<31)),
		CallsReceived: in.Calls, CallsRefused: in.Refused, Duplicates: work.Duplicates,
		Services: uint64(work.Services), Endpoints: uint64(work.Endpoints), Findings: uint64(work.Findings), LagBatches: work.Lag,
		JournalBytes: c.journalBytes.get(c.world.Now(), func() (uint64, error) {
			ctx, cancel := context.WithTimeout(context.Background(), measureTimeout)
			defer cancel()
			return c.journal.Bytes(ctx)
		}),
		Counts: slices.Concat(in.Proto(), ownersCounts(work), c.rules.Counts()),
	}
}

// sinks is the account of every outlet with what waits for it.
func (c *collector) sinks() []*v1.Sink {
	var list []*v1.Sink
	ctx, cancel := context.WithTimeout(context.Background(), measureTimeout)
	defer cancel()
	for _, o := range c.outlets {
		s := o.Status()
		if n, err := c.journal.Backlog(ctx, o.Durable()); err == nil {
			s.Backlog = n
		}
		list = append(list, s)
	}
	return list
}
