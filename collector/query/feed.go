package query

import (
	"sync"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// Feed hands new calls to followers. Publish never waits: a follower whose queue is full loses the batch and learns how
// many of the calls it asked for were in it.
type Feed struct {
	mu        sync.Mutex
	limit     int
	followers map[*follower]struct{}
}

// NewFeed makes a feed that holds at most calls calls per follower (0 = 8192).
func NewFeed(calls int) *Feed {
	if calls <= 0 {
		calls = defaultFollowerCalls
	}
	return &Feed{limit: calls, followers: map[*follower]struct{}{}}
}

// Publish hands b to every follower.
func (f *Feed) Publish(b Batch) {
	if len(b.Calls) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.followers {
		r.offer(b, f.limit)
	}
}

func (f *Feed) follow(match func(*v1.Call) bool) *follower {
	r := &follower{match: match, wake: make(chan struct{}, 1)}
	f.mu.Lock()
	f.followers[r] = struct{}{}
	f.mu.Unlock()
	return r
}

func (f *Feed) leave(r *follower) {
	f.mu.Lock()
	delete(f.followers, r)
	f.mu.Unlock()
}

// follower is one reader's queue.
type follower struct {
	match func(*v1.Call) bool
	wake  chan struct{}

	mu     sync.Mutex
	queue  []queued
	calls  int
	missed uint64
}

// queued is a batch and how many calls were lost right before it.
type queued struct {
	missed uint64
	batch  Batch
}

func (r *follower) offer(b Batch, limit int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// A batch larger than the limit is taken by an idle reader: it is one allocation that exists anyway.
	if r.calls > 0 && r.calls+len(b.Calls) > limit {
		for _, c := range b.Calls {
			if r.match(c) {
				r.missed++
			}
		}
		return
	}
	r.queue = append(r.queue, queued{missed: r.missed, batch: b})
	r.calls += len(b.Calls)
	r.missed = 0
	r.signal()
}

// take empties the queue; missed are the calls lost after the last batch of it.
func (r *follower) take() (batches []queued, missed uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	batches, missed = r.queue, r.missed
	r.queue, r.calls, r.missed = nil, 0, 0
	return batches, missed
}

func (r *follower) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Changes hands findings to watchers. A watcher that is slow sees the newest revision of each, so what it holds is at
// most one of every finding.
type Changes struct {
	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

// NewChanges makes an empty hub.
func NewChanges() *Changes { return &Changes{watchers: map[*watcher]struct{}{}} }

// Publish hands findings to every watcher; they are shared and must not be changed.
func (c *Changes) Publish(findings ...*v1.Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.watchers {
		w.offer(findings)
	}
}

func (c *Changes) watch() *watcher {
	w := &watcher{newest: map[string]*v1.Finding{}, wake: make(chan struct{}, 1)}
	c.mu.Lock()
	c.watchers[w] = struct{}{}
	c.mu.Unlock()
	return w
}

func (c *Changes) leave(w *watcher) {
	c.mu.Lock()
	delete(c.watchers, w)
	c.mu.Unlock()
}

type watcher struct {
	wake chan struct{}

	mu     sync.Mutex
	order  []string
	newest map[string]*v1.Finding
}

func (w *watcher) offer(findings []*v1.Finding) {
	w.mu.Lock()
	for _, f := range findings {
		if _, waiting := w.newest[f.GetId()]; !waiting {
			w.order = append(w.order, f.GetId())
		}
		w.newest[f.GetId()] = f
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []*v1.Finding {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]*v1.Finding, 0, len(w.order))
	for _, id := range w.order {
		out = append(out, w.newest[id])
	}
	w.order, w.newest = w.order[:0], map[string]*v1.Finding{}
	return out
}
