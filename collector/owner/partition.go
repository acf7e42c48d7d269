package owner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spile/spile/collector/inventory"
	"github.com/spile/spile/collector/journal"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// phase of a partition.
type phase uint32

const (
	loading phase = iota
	owning
	stale
)

// partition is one owner. Its goroutine has all of it but what mu guards and the counters.
type partition struct {
	number int
	cfg    *Config

	meta     meta
	revision uint64
	detector Detector
	changed  map[string]*v1.Finding // findings since the last commit
	unsure   bool                   // a commit's outcome is unknown
	lastCost time.Duration          // of the last commit

	state    atomic.Uint32
	loaded   atomic.Bool // once at least: what it shows is what was stored, or newer
	counters counters

	mu       sync.Mutex
	inv      *inventory.Inventory
	findings map[string]*v1.Finding // as stored
}

// counters are read by anyone.
type counters struct {
	records, calls, duplicates, late, undecodable, lostCalls, commits, restarts, lag atomic.Uint64
}

// item is a record on its way from the reader to the loop.
type item struct {
	seq uint64
	journal.Record
}

func newPartition(number int, cfg *Config) *partition {
	return &partition{number: number, cfg: cfg, inv: inventory.New(cfg.Limits), findings: map[string]*v1.Finding{}}
}

func (p *partition) status() phase { return phase(p.state.Load()) }

func (p *partition) view() *inventory.Inventory {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inv
}

func (p *partition) appendFindings(list []*v1.Finding) []*v1.Finding {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.findings {
		list = append(list, f)
	}
	return list
}

// run owns the partition until ctx ends or another owner has it. After an error it starts over from what is stored.
func (p *partition) run(ctx context.Context) {
	retry := firstRetry
	for ctx.Err() == nil {
		began := p.counters.commits.Load()
		err := p.own(ctx)
		if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
			return
		}
		if errors.Is(err, journal.ErrStale) && !p.unsure {
			p.replace(inventory.New(p.cfg.Limits), map[string]*v1.Finding{})
			p.state.Store(uint32(stale))
			p.cfg.Warn(p.number, fmt.Errorf("partition %d stops, another collector owns it: %w", p.number, err))
			return
		}
		// A commit that failed without an answer may still land between Load and the next commit; that one is then stale
		// without another owner.
		p.unsure = !errors.Is(err, journal.ErrStale)
		p.state.Store(uint32(loading))
		p.counters.restarts.Add(1)
		p.cfg.Warn(p.number, fmt.Errorf("partition %d starts over from its last commit: %w", p.number, err))
		if p.counters.commits.Load() > began {
			retry = firstRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
		retry = min(retry*2, lastRetry)
	}
}

// own loads the state and takes records until something fails or ctx ends.
func (p *partition) own(ctx context.Context) error {
	if err := p.load(ctx); err != nil {
		return err
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	records, failed := make(chan item), make(chan error, 1)
	go func() {
		failed <- p.cfg.Journal.Read(reading, p.number, p.meta.offset, func(seq uint64, r journal.Record) error {
			select {
			case records <- item{seq, r}:
				return nil
			case <-reading.Done():
				return reading.Err()
			}
		})
	}()
	p.state.Store(uint32(owning))
	p.loaded.Store(true)

	commitAt := time.NewTimer(time.Hour)
	commitAt.Stop()
	armed := false
	idle := time.NewTicker(idleEvery)
	defer idle.Stop()
	for {
		select {
		case it := <-records:
			if err := p.take(ctx, it); err != nil {
				return err
			}
			if !armed {
				// A slow disk gets fewer, larger commits: at most a fifth of the time goes into them.
				commitAt.Reset(max(p.cfg.Every, 4*p.lastCost))
				armed = true
			}
			if p.keys() < maxDirty {
				continue
			}
		case <-commitAt.C:
		case <-idle.C:
			if err := p.catchUp(ctx); err != nil {
				return err
			}
			continue
		case err := <-failed:
			// The reader may hear of the end first.
			if ctx.Err() == nil {
				return err
			}
			return p.leave(ctx, armed)
		case <-ctx.Done():
			return p.leave(ctx, armed)
		}
		commitAt.Stop()
		armed = false
		if err := p.commitWhole(ctx); err != nil {
			return err
		}
	}
}

// leave makes a last commit of what was read since the one before, though a restart would read it again.
func (p *partition) leave(ctx context.Context, uncommitted bool) error {
	if !uncommitted {
		return ctx.Err()
	}
	return errors.Join(p.commitWhole(ctx), ctx.Err())
}

// commitWhole gives a commit finalCommit longer than ctx: cut off, it would be unknown whether it was stored.
func (p *partition) commitWhole(ctx context.Context) error {
	whole, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(finalCommit, cancel) })()
	return p.commit(whole)
}

// load makes the partition's memory equal to its last commit.
func (p *partition) load(ctx context.Context) error {
	snap, err := p.cfg.Journal.Load(ctx, p.number)
	if err != nil {
		return err
	}
	m, err := decodeMeta(snap.Meta)
	if err != nil {
		return fmt.Errorf("load partition %d: %w", p.number, err)
	}
	inv, findings := inventory.New(p.cfg.Limits), map[string]*v1.Finding{}
	var buckets []inventory.Bucket
	var list []*v1.Finding
	for key, value := range snap.Entries {
		if inventory.IsBucket(key) {
			buckets = append(buckets, inventory.Bucket{Key: key, Value: value})
		} else if strings.HasPrefix(key, FindingPrefix+".") {
			f := &v1.Finding{}
			if err := proto.Unmarshal(value, f); err != nil {
				return fmt.Errorf("load finding %s of partition %d: %w", key, p.number, err)
			}
			findings[f.GetId()] = f
			list = append(list, f)
		}
	}
	if err := inv.Restore(buckets); err != nil {
		return fmt.Errorf("load partition %d: %w", p.number, err)
	}
	p.detector = nil
	if p.cfg.Detector != nil {
		if p.detector, err = p.cfg.Detector(); err != nil {
			return fmt.Errorf("load partition %d: %w", p.number, err)
		}
		if err := p.detector.Restore(list); err != nil {
			return fmt.Errorf("load partition %d: %w", p.number, err)
		}
		p.detector.Begin()
	}
	p.meta, p.revision, p.changed = m, snap.Revision, map[string]*v1.Finding{}
	p.replace(inv, findings)
	if err := p.checkBounds(ctx); err != nil {
		return err
	}
	lag, err := p.cfg.Journal.Lag(ctx, p.number, p.meta.offset)
	p.counters.lag.Store(lag)
	return err
}

func (p *partition) replace(inv *inventory.Inventory, findings map[string]*v1.Finding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inv, p.findings = inv, findings
}

// checkBounds compares the position with what the journal still has.
func (p *partition) checkBounds(ctx context.Context) error {
	first, last, err := p.cfg.Journal.Bounds(ctx)
	if err != nil {
		return err
	}
	switch {
	case p.meta.offset > last:
		p.cfg.Warn(p.number, fmt.Errorf("partition %d had read record %d, the newest is %d: %w", p.number, p.meta.offset, last, ErrCut))
		p.meta.offset, p.meta.partOf, p.meta.partCalls = last, 0, 0
	case p.meta.offset > 0 && first > p.meta.offset+1:
		p.cfg.Warn(p.number, fmt.Errorf("partition %d had read record %d, the oldest is %d: %w", p.number, p.meta.offset, first, ErrAged))
	}
	return nil
}

// catchUp moves the position of a quiet partition to the end, so that checkBounds warns of nothing that was other partitions'.
func (p *partition) catchUp(ctx context.Context) error {
	_, last, err := p.cfg.Journal.Bounds(ctx)
	if err != nil || last <= p.meta.offset || p.meta.partOf != 0 || p.revision == 0 {
		return err
	}
	lag, err := p.cfg.Journal.Lag(ctx, p.number, p.meta.offset)
	if err != nil || lag > 0 {
		return err
	}
	p.meta.offset = last
	return p.commit(ctx)
}
