// Package ship hands calls to the collector and loses none without saying so.
//
//	Add ──▶ open batch ──200 ms or 1,000 calls──▶ writer ──▶ spool (disk) ──credits──▶ gRPC stream ──▶ collector
//	         full: dropped                                    ▲   over its limit: oldest dropped      │
//	                                                          └──────────── Receipt: removed ◀────────┘
//
// Add never waits, and keeps nothing of a call but its texts. The writer's goroutine owns the encoder and writes a batch
// every MaxDelay or MaxCalls as (epoch, seq); the epoch numbers starts of the agent, seq counts from 1. A batch is on
// disk before it is sent and leaves the disk when the collector's Receipt says that the journal has
// it. The sender goroutine owns the connection; its states:
//
//	    ┌───────────── any error: back off 0.1 to 5 s, jittered ─────────────┐
//	    ▼                                                                    │
//	connecting ──stream──▶ greeting ──Welcome──▶ sending ──no credit──▶ waiting
//	                                                ▲──────Receipt───────────┘
//
// What is lost when: killed, at most what was in the open batch (MaxDelay) and in those on their way to the disk. Batches
// on disk survive a kill of the process, because write(2) has handed them to the kernel; they are not
// fsynced, so a power loss may take the last seconds: the damaged tail is found by checksum and
// counted. Batches that an earlier run left are sent first, with their own epoch and seq. A batch may
// arrive twice (its Receipt was lost); the collector counts (agent, epoch, seq) once.
//
// At any time: Added + Recovered = Queued + Spooled + Receipted + Rejected + sum of Dropped, in calls.
package ship

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// Config is what the agent's main knows. Address, TLS, SpoolDir and Epoch are required.
type Config struct {
	Address  string
	TLS      *tls.Config
	SpoolDir string
	// SpoolBytes bounds the spool on disk; default 256 MiB.
	SpoolBytes int64
	Node       string
	Version    string
	Kernel     string
	// Epoch is the start of this process in Unix nanoseconds. It is raised above any epoch found in
	// the spool, so that a clock set back cannot reuse one.
	Epoch uint64
	// MaxDelay and MaxCalls seal a batch; defaults 200 ms and 1,000.
	MaxDelay time.Duration
	MaxCalls int
	// QueueCalls bounds what waits for the disk; default 8,192.
	QueueCalls int
	// HealthEvery is the interval of health reports; default 3 s.
	HealthEvery time.Duration
	// ReceiptTimeout ends a stream on which batches wait for receipts and none comes; default 60 s.
	ReceiptTimeout time.Duration
	// Health makes the agent's report; ship adds its own counts. It may be nil.
	Health func() *v1.Health
	// OnWelcome gets the install key at each connect. It may be nil.
	OnWelcome func(key []byte, epoch uint32)
	// Notice gets each new trouble once, for the log; nil when trouble is over. It may be nil.
	Notice func(error)
}

const (
	defaultSpoolBytes  = 256 << 20
	defaultMaxDelay    = 200 * time.Millisecond
	defaultMaxCalls    = 1000
	defaultQueueCalls  = 8192
	defaultHealthEvery = 3 * time.Second
	// reportLimit is how long the end waits for the last health report to be sent.
	reportLimit    = time.Second
	defaultReceipt = 60 * time.Second

	// maxPayloadBytes keeps a batch within the collector's default credit.
	maxPayloadBytes = 1 << 20
)

// Reasons of loss, as they appear in Counts.
const (
	DropQueueFull  = "ship_queue_full"
	DropClosed     = "ship_closed"
	DropInvalid    = "ship_invalid"
	DropTooLarge   = "ship_too_large"
	DropSpoolFull  = "ship_spool_full"
	DropSpoolWrite = "ship_spool_write"
	DropSpoolRead  = "ship_spool_read"
)

var errTooLarge = errors.New("call is too large")

// ErrSpool says that the spool directory cannot be used.
var ErrSpool = errors.New("spool cannot be used")

// Shipper is one agent's way to its collector.
type Shipper struct {
	cfg    Config
	outbox outbox
	flush  chan chan struct{}
	// report asks the sender for a health report before its time.
	report chan chan<- struct{}
	spool  *spool

	closed    atomic.Bool
	added     atomic.Uint64
	connected atomic.Bool

	mu      sync.Mutex
	dropped map[string]uint64
	trouble string
}

// New opens the spool and takes over what an earlier run left in it.
func New(cfg Config) (*Shipper, error) {
	if cfg.Address == "" || cfg.TLS == nil || cfg.SpoolDir == "" || cfg.Epoch == 0 {
		return nil, errors.New("configure ship: address, TLS, spool directory and epoch are required")
	}
	setDefault(&cfg.SpoolBytes, defaultSpoolBytes)
	setDefault(&cfg.MaxDelay, defaultMaxDelay)
	setDefault(&cfg.MaxCalls, defaultMaxCalls)
	setDefault(&cfg.QueueCalls, defaultQueueCalls)
	setDefault(&cfg.HealthEvery, defaultHealthEvery)
	setDefault(&cfg.ReceiptTimeout, defaultReceipt)
	s := &Shipper{cfg: cfg, outbox: outbox{enough: cfg.MaxCalls, max: cfg.QueueCalls, came: make(chan struct{}, 1)}, flush: make(chan chan struct{}), report: make(chan chan<- struct{}, 1), dropped: map[string]uint64{}}
	var err error
	if s.spool, err = openSpool(cfg.SpoolDir, cfg.SpoolBytes, cfg.Epoch); err != nil {
		return nil, err
	}
	return s, nil
}

func setDefault[T int | int64 | time.Duration](v *T, to T) {
	if *v <= 0 {
		*v = to
	}
}

// Epoch is the epoch of batches sealed by this run.
func (s *Shipper) Epoch() uint64 { return s.spool.epoch }

// Add hands on calls, which stay the caller's. It never waits: what there is no room for, or what comes after Drain, is
// dropped and counted.
func (s *Shipper) Add(calls ...*v1.Call) {
	s.added.Add(uint64(len(calls)))
	if s.closed.Load() {
		s.drop(DropClosed, uint64(len(calls)))
		return
	}
	l := s.outbox.put(calls)
	s.drop(DropQueueFull, l.full)
	s.drop(DropTooLarge, l.tooLarge)
	s.drop(DropInvalid, l.invalid)
	if l.err != nil {
		s.notice(fmt.Errorf("drop a call that cannot be sent: %w", l.err))
	}
}

// Report sends a health report as soon as there is a connection. It never waits.
func (s *Shipper) Report() {
	select {
	case s.report <- nil:
	default:
	}
}

// Run batches and sends until ctx ends, then seals what is queued into the spool and closes it.
func (s *Shipper) Run(ctx context.Context) error {
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	var done sync.WaitGroup
	done.Go(func() { s.sendLoop(sending) })
	err := s.writeLoop(ctx)
	stop()
	done.Wait()
	return errors.Join(err, s.spool.close())
}

// Drain refuses further calls, seals what is queued and waits until the collector has receipted all
// of the spool or ctx ends. Run must be running.
func (s *Shipper) Drain(ctx context.Context) error {
	s.closed.Store(true)
	done := make(chan struct{})
	select {
	case s.flush <- done:
	case <-ctx.Done():
		return s.left(ctx.Err())
	}
	select {
	case <-done:
	case <-ctx.Done():
		return s.left(ctx.Err())
	}
	for {
		empty, changed := s.spool.watch()
		if empty {
			s.lastReport(ctx)
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s.left(ctx.Err())
		}
	}
}

// lastReport sends the account of the end, where there is a connection to send it on.
func (s *Shipper) lastReport(ctx context.Context) {
	if !s.connected.Load() {
		return
	}
	sent := make(chan struct{})
	limit := time.After(reportLimit)
	select {
	case s.report <- sent:
	case <-limit:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-sent:
	case <-limit:
	case <-ctx.Done():
	}
}

func (s *Shipper) left(err error) error {
	c := s.Counts()
	return fmt.Errorf("drain: %d calls stay in the spool until the next start: %w", c.Spooled+c.Queued, err)
}

func (s *Shipper) drop(reason string, calls uint64) {
	if calls == 0 {
		return
	}
	s.mu.Lock()
	s.dropped[reason] += calls
	s.mu.Unlock()
}

// notice reports a change of trouble; the same trouble again is silent.
func (s *Shipper) notice(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.mu.Lock()
	changed := text != s.trouble
	s.trouble = text
	s.mu.Unlock()
	if changed && s.cfg.Notice != nil {
		s.cfg.Notice(err)
	}
}
