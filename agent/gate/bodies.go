package gate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const (
	lookEvery = time.Minute
	lookFor   = time.Second
)

// Bodies knows how long our own programs run, which comes on top of what a hit costs. The kernel measures that only while
// it is asked to, since it slows down every program of the host by two looks at the clock: one second in sixty.
type Bodies struct {
	Entries, Returns *Body
	enable           func() (stop func(), err error)
}

// Body is how long the programs of one kind run, on average.
type Body struct {
	stats func() (runs uint64, total time.Duration, err error)

	mu sync.Mutex
	ns float64
}

// Ns is the last measurement, or what is typical.
func (b *Body) Ns() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ns
}

// typical is nginx under load (Linux 6.18, an AMD EPYC): an entry remembers a call, 0.42 us; a return copies what it moved,
// 0.35 us for small answers and 0.1 us more for each KiB.
const (
	typicalEntryNs  = 400
	typicalReturnNs = 500
)

// NewBodies measures the programs of these names that are put at entries, and those at returns.
func NewBodies(entries, returns []string, program func(name string) *ebpf.Program) *Bodies {
	return &Bodies{
		Entries: &Body{ns: typicalEntryNs, stats: statsOf(entries, program)}, Returns: &Body{ns: typicalReturnNs, stats: statsOf(returns, program)},
		enable: func() (func(), error) {
			running, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
			if err != nil {
				return nil, err
			}
			return func() { running.Close() }, nil
		},
	}
}

func statsOf(names []string, program func(name string) *ebpf.Program) func() (uint64, time.Duration, error) {
	return func() (runs uint64, total time.Duration, err error) {
		seen := map[*ebpf.Program]bool{nil: true}
		for _, name := range names {
			p := program(name)
			if seen[p] {
				continue // one program goes by several names
			}
			seen[p] = true
			s, err := p.Stats()
			if err != nil {
				return 0, 0, fmt.Errorf("read the run time of %s: %w", p, err)
			}
			runs, total = runs+s.RunCount, total+s.Runtime
		}
		return runs, total, nil
	}
}

// Run measures once a minute until ctx ends. Where the kernel does not let it, it says so by returning an error, and what
// is typical stands.
func (b *Bodies) Run(ctx context.Context) error {
	next := time.NewTimer(5 * time.Second) // soon, but not while everything attaches
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		}
		if err := b.look(ctx, lookFor); err != nil {
			return err
		}
		next.Reset(lookEvery)
	}
}

// look measures for a while.
func (b *Bodies) look(ctx context.Context, during time.Duration) error {
	stop, err := b.enable()
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("the kernel measures programs only for CAP_SYS_ADMIN: %w", err)
	}
	if err != nil {
		return fmt.Errorf("have the kernel measure programs: %w", err)
	}
	defer stop()
	// Counts and times are of the whole life of a program, in which others may have had it measured too: both begin together.
	kinds := []*Body{b.Entries, b.Returns}
	runs, totals := make([]uint64, len(kinds)), make([]time.Duration, len(kinds))
	for i, k := range kinds {
		if runs[i], totals[i], err = k.stats(); err != nil {
			return err
		}
	}
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(during):
	}
	for i, k := range kinds {
		n, total, err := k.stats()
		if err != nil {
			return err
		}
		if n <= runs[i] {
			continue // nothing ran: the last figure stands
		}
		k.mu.Lock()
		k.ns = float64(total-totals[i]) / float64(n-runs[i])
		k.mu.Unlock()
	}
	return nil
}
