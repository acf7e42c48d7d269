package probe

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"time"
)

func (r *Registry) sweepLoop() {
	defer close(r.swept)
	ticker := time.NewTicker(r.times.Sweep)
	defer ticker.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-r.breaks:
			r.yieldBroken()
		case <-ticker.C:
			r.yieldBroken()
			r.sweep()
		}
	}
}

func (r *Registry) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	for k, e := range r.files {
		if len(e.users) > 0 {
			continue
		}
		idle, over := now.Sub(e.idle), false
		switch e.state.Phase {
		case Draining:
			over = idle >= r.times.Grace
		case Failed, Denied:
			over = e.written && idle >= r.times.Grace || idle >= r.times.Forget
		case Suspended: // not before its time: coming back would be a way out
			over = idle >= r.times.Grace && now.Sub(e.tried) >= e.wait
		}
		if over {
			r.detach(e, r.slotsOut, nil)
			r.remove(k)
		}
	}
}

// detach takes out everything that is in the kernel for a file, without waiting. When it is out it calls then, if there is
// one, and lets writers in. The caller holds the lock, so that Close sees every detach begun.
func (r *Registry) detach(e *entry, room chan struct{}, then func()) {
	a := e.at
	e.at, e.canary = nil, nil
	if a == nil {
		return
	}
	parts := a.parts
	a.parts = nil
	r.detaching.Go(func() {
		r.closeAll(parts, room)
		a.moving.Wait()
		r.forget(a)
		if then != nil {
			then()
		}
		a.guard.release()
	})
}

// abandon takes out what was just attached and is not wanted any more. The caller holds the lock.
func (r *Registry) abandon(a *attachment) { r.detach(&entry{at: a}, r.slotsOut, nil) }

// ErrLeft says that probes were still being detached when time ran out. They go when the process ends.
var ErrLeft = errors.New("detaching took too long; the rest goes with the process")

// lastCloses bounds the wait for what the kernel is at when time has run out.
const lastCloses = 10 * time.Second

// Close detaches everything. When ctx ends it begins nothing new, and waits for what the kernel is at: a process that is
// killed in the middle of a detach leaves its breakpoint behind (the kernel's uprobe_unregister gives up when a signal is
// pending), while one that ends takes the rest along.
func (r *Registry) Close(ctx context.Context) error {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		signal.Stop(r.breaks)
		close(r.stop)
	}
	n := len(r.files)
	for k, e := range r.files {
		r.detach(e, r.lastOut, nil)
		r.remove(k)
	}
	r.mu.Unlock()
	<-r.swept
	done := make(chan struct{})
	go func() {
		<-r.looked
		<-r.advanced
		r.detaching.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	r.lateOnce.Do(func() { close(r.late) })
	closed := make(chan struct{})
	go func() {
		r.closing.Wait()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(lastCloses):
	}
	return fmt.Errorf("detach %d files: %w", n, ErrLeft)
}
