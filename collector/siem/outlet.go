package siem

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	// minWait and maxWait bound the pause after a failed delivery.
	minWait = 100 * time.Millisecond
	maxWait = 30 * time.Second
	// maxKnown bounds the revisions an outlet remembers; beyond it, it may deliver one again, with the same event id.
	maxKnown = 200_000
	// maxErrorBytes bounds the text shown in a status.
	maxErrorBytes = 512
)

// Watch hands each change of the keys under prefix to handle, once handle has returned nil never again, and remembers under
// the name durable how far it came. An error of handle ends it. journal.Journal.Watch is one.
type Watch func(ctx context.Context, durable, prefix string, handle func(seq uint64, key string, value []byte) error) error

// Outlet is one configured sink, its format and its counters.
type Outlet struct {
	config Config
	sink   Sink
	format func(*v1.Finding) ([]byte, error)
	wait   func(ctx context.Context, d time.Duration)
	notice func(sink string, err error)
	// known is the last delivered revision of each finding. Only Run uses it.
	known map[string]uint64

	mu        sync.Mutex
	delivered uint64
	errors    uint64
	failing   bool
	lastError string
}

// Open checks a configuration and makes its outlet. It opens no file yet: a sink that is down at the start is retried like one
// that goes down later.
func Open(c Config, w World) (*Outlet, error) {
	c, k, f, err := c.resolve()
	if err != nil {
		return nil, err
	}
	sink, err := k.open(c, w)
	if err != nil {
		return nil, err
	}
	return &Outlet{config: c, sink: sink, format: f.make(w), wait: sleep, notice: w.Notice, known: make(map[string]uint64)}, nil
}

// Durable is the name under which the outlet's position is kept.
func (o *Outlet) Durable() string { return "sink-" + o.config.Name }

// Run delivers the findings under prefix until ctx ends. It returns nil then; every other error is counted, shown by Status and
// tried again.
func (o *Outlet) Run(ctx context.Context, watch Watch, prefix string) error {
	pause := minWait
	for {
		before := o.count()
		err := watch(ctx, o.Durable(), prefix, func(_ uint64, _ string, value []byte) error { return o.deliver(value) })
		if ctx.Err() != nil {
			return o.sink.Close()
		}
		if err == nil {
			err = errors.New("the journal ended the watch")
		}
		o.fail(err)
		if o.count() != before {
			pause = minWait
		}
		// Half fixed, half random: sinks that failed together do not come back together.
		o.wait(ctx, pause/2+rand.N(pause/2+1))
		pause = min(2*pause, maxWait)
	}
}

// deliver writes one stored finding. nil lets the position move.
func (o *Outlet) deliver(value []byte) error {
	if len(value) == 0 {
		return nil // a removed key
	}
	f := &v1.Finding{}
	err := proto.Unmarshal(value, f)
	if err == nil && f.GetId() == "" {
		err = errors.New("it has no id")
	}
	if err != nil {
		o.fail(fmt.Errorf("skip a stored value of %d bytes that is no finding: %w", len(value), err))
		return nil
	}
	if last, ok := o.known[f.Id]; ok && f.Revision <= last {
		return nil
	}
	line, err := o.format(f)
	if err != nil {
		o.fail(fmt.Errorf("skip finding %s: %w", f.Id, err))
		return nil
	}
	if err := o.sink.Write(line); err != nil {
		return err
	}
	if err := o.sink.Sync(); err != nil {
		return err
	}
	if len(o.known) >= maxKnown {
		clear(o.known)
	}
	o.known[f.Id] = f.Revision
	o.mu.Lock()
	o.delivered++
	worked := !o.failing
	o.failing = false
	o.mu.Unlock()
	if !worked && o.notice != nil {
		o.notice(o.config.Name, nil)
	}
	return nil
}

func (o *Outlet) count() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.delivered
}

func (o *Outlet) fail(err error) {
	// The status is a protobuf message, whose strings are valid UTF-8; a file's name need not be.
	text := err.Error()
	text = strings.ToValidUTF8(text[:min(len(text), maxErrorBytes)], "")
	o.mu.Lock()
	o.errors++
	worked := !o.failing
	o.failing, o.lastError = true, text
	o.mu.Unlock()
	if worked && o.notice != nil {
		o.notice(o.config.Name, err)
	}
}

// Status is what "spile sinks" shows. The caller knows the backlog. LastError stays until a later delivery worked.
func (o *Outlet) Status() *v1.Sink {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &v1.Sink{Name: o.config.Name, Kind: o.config.Kind, Format: o.config.Format, Delivered: o.delivered, Errors: o.errors}
	if o.failing {
		s.LastError = o.lastError
	}
	return s
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
