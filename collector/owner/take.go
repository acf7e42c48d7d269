package owner

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spile/spile/collector/journal"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// take brings one record into memory; where that changes very much, it commits in between.
func (p *partition) take(ctx context.Context, it item) error {
	if it.seq <= p.meta.offset {
		return nil
	}
	p.counters.lag.Store(it.Pending)
	switch p.meta.marks.check(it.Agent, it.Epoch, it.Seq) {
	case duplicate:
		p.counters.duplicates.Add(1)
		p.done(it)
		return nil
	case late:
		p.counters.late.Add(1)
		p.counters.lostCalls.Add(uint64(it.Count))
		p.done(it)
		return nil
	}
	calls, err := p.decode(it.Payload)
	if err != nil {
		p.counters.undecodable.Add(1)
		p.counters.lostCalls.Add(uint64(it.Count))
		p.cfg.Warn(p.number, fmt.Errorf("leave out record %d of agent %s with %d calls: %w", it.seq, it.Agent, it.Count, err))
		p.meta.marks.mark(it.Agent, it.Epoch, it.Seq, it.Stored)
		p.done(it)
		return nil
	}
	for _, c := range calls {
		c.Route = p.cfg.Route(c.GetPath())
	}
	p.cfg.Live(p.number, it.seq, calls)
	if p.meta.partOf != it.seq {
		p.meta.partOf, p.meta.partCalls = it.seq, 0
	}
	inv := p.view()
	for i := int(p.meta.partCalls); i < len(calls); i++ {
		c := calls[i]
		inv.Observe(c)
		if p.detector != nil {
			for _, f := range p.detector.Observe(c) {
				p.changed[f.GetId()] = f
			}
		}
		p.meta.partCalls++
		if p.keys() >= maxKeys {
			if err := p.commit(ctx); err != nil {
				return err
			}
		}
	}
	p.counters.records.Add(1)
	p.counters.calls.Add(uint64(len(calls)))
	p.meta.marks.mark(it.Agent, it.Epoch, it.Seq, it.Stored)
	p.done(it)
	return nil
}

// decode makes an error of a panic: a record that crashed the collector would be read again at its restart, for ever.
func (p *partition) decode(payload []byte) (calls []*v1.Call, err error) {
	defer func() {
		if r := recover(); r != nil {
			calls, err = nil, fmt.Errorf("decode panicked: %v", r)
		}
	}()
	return p.cfg.Decode(payload)
}

func (p *partition) done(it item) {
	p.meta.offset, p.meta.partOf, p.meta.partCalls = it.seq, 0, 0
}

// keys counts what the next commit would write.
func (p *partition) keys() int { return p.inv.Dirty() + len(p.changed) }

// commit stores what changed. After an error the memory is ahead of the store: the caller must load again.
func (p *partition) commit(ctx context.Context) error {
	began := time.Now()
	p.meta.marks.forget()
	buckets, err := p.inv.Flush()
	if err != nil {
		return err
	}
	entries := make([]journal.Entry, 0, len(buckets)+len(p.changed))
	for _, b := range buckets {
		entries = append(entries, journal.Entry{Key: b.Key, Value: b.Value})
	}
	changed := make([]*v1.Finding, 0, len(p.changed))
	for id, f := range p.changed {
		value, err := proto.MarshalOptions{Deterministic: true}.Marshal(f)
		if err != nil {
			return fmt.Errorf("encode finding %s: %w", id, err)
		}
		entries = append(entries, journal.Entry{Key: FindingPrefix + "." + id, Value: value})
		changed = append(changed, f)
	}
	if p.revision, err = p.cfg.Journal.Commit(ctx, p.number, p.revision, entries, p.meta.encode()); err != nil {
		return err
	}
	p.unsure = false
	if p.detector != nil {
		p.detector.Begin()
	}
	p.lastCost = time.Since(began)
	p.counters.commits.Add(1)
	if len(changed) > 0 {
		p.mu.Lock()
		for _, f := range changed {
			p.findings[f.GetId()] = f
		}
		p.mu.Unlock()
		clear(p.changed)
		slices.SortFunc(changed, func(a, b *v1.Finding) int { return cmp.Compare(a.GetId(), b.GetId()) })
		p.cfg.Found(changed)
	}
	return nil
}

func (p *partition) addStats(sum *Stats) {
	c := &p.counters
	sum.Records += c.records.Load()
	sum.Calls += c.calls.Load()
	sum.Duplicates += c.duplicates.Load()
	sum.Late += c.late.Load()
	sum.Undecodable += c.undecodable.Load()
	sum.LostCalls += c.lostCalls.Load()
	sum.Commits += c.commits.Load()
	sum.Restarts += c.restarts.Load()
	sum.Lag += c.lag.Load()
	if p.status() == stale {
		sum.Stale++
	}
	if !p.loaded.Load() {
		sum.Loading++
	}
	services, active, candidates := p.view().Counts()
	sum.Services += services
	sum.Endpoints += active
	sum.Candidates += candidates
	p.mu.Lock()
	sum.Findings += len(p.findings)
	p.mu.Unlock()
}
