package siem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// queue is a journal with positions: what watch hands out again after a failure or a restart.
type queue struct {
	mu       sync.Mutex
	values   [][]byte
	position map[string]int
}

func (q *queue) add(t *testing.T, f *v1.Finding) {
	t.Helper()
	b, err := proto.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.values = append(q.values, b)
}

func (q *queue) watch(ctx context.Context, durable, prefix string, handle func(uint64, string, []byte) error) error {
	for ctx.Err() == nil {
		q.mu.Lock()
		at := q.position[durable]
		more := at < len(q.values)
		var v []byte
		if more {
			v = q.values[at]
		}
		q.mu.Unlock()
		if !more {
			time.Sleep(time.Millisecond)
			continue
		}
		if err := handle(uint64(at+1), fmt.Sprintf("%s.%d", prefix, at), v); err != nil {
			return err
		}
		q.mu.Lock()
		q.position[durable] = at + 1
		q.mu.Unlock()
	}
	return ctx.Err()
}

// drain runs an outlet until its position is at the end.
func drain(t *testing.T, q *queue, o *Outlet) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- o.Run(ctx, q.watch, "fi") }()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		q.mu.Lock()
		end := q.position[o.Durable()] == len(q.values)
		q.mu.Unlock()
		if end {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the outlet is stuck: %v", o.Status())
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func mustOutlet(t *testing.T, c Config, w World) *Outlet {
	t.Helper()
	o, err := Open(c, w)
	if err != nil {
		t.Fatal(err)
	}
	o.wait = func(context.Context, time.Duration) { time.Sleep(time.Millisecond) }
	return o
}

func finding(id int, revision uint64) *v1.Finding {
	return &v1.Finding{Id: fmt.Sprintf("f:%016x", id), Rule: "r", Revision: revision}
}

func TestOutletDeliversEachRevisionOnce(t *testing.T) {
	q := &queue{position: map[string]int{}}
	for _, f := range []*v1.Finding{finding(1, 1), finding(2, 1), finding(1, 1), finding(1, 2), finding(2, 1)} {
		q.add(t, f)
	}
	q.values = append(q.values, nil, []byte("\xff\xff not protobuf"), []byte{})
	q.add(t, finding(0, 0))
	q.add(t, &v1.Finding{Rule: "no id"})
	var out bytes.Buffer
	o := mustOutlet(t, Config{Kind: "stdout", Format: "ocsf"}, World{Stdout: &out})
	drain(t, q, o)
	got := ""
	for _, l := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		_, l, _ = strings.Cut(l, `"metadata":{"version":"1.8.0","uid":"f:000000000000000`)
		got += l[:3] + " "
	}
	if got != `1:1 2:1 1:2 0:0 ` {
		t.Fatalf("delivered %s", got)
	}
	if s := o.Status(); s.Delivered != 4 || s.Errors != 2 || !strings.Contains(s.LastError, "no id") {
		t.Fatalf("status %v, want 4 delivered and 2 skipped", s)
	}
}

func TestOutletLosesNothingWhileTheSinkIsDown(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	path := filepath.Join(dir, "f.jsonl")
	q := &queue{position: map[string]int{}}
	for i := range 50 {
		q.add(t, finding(i, 1))
	}
	notices := ""
	o := mustOutlet(t, Config{Kind: "file", Path: path}, World{Notice: func(sink string, err error) {
		notices += fmt.Sprintf("%s %v; ", sink, err)
	}})
	pauses := []time.Duration{}
	o.wait = func(_ context.Context, d time.Duration) {
		if s := o.Status(); s.Errors == 0 || !strings.Contains(s.LastError, path) {
			t.Errorf("status while down: %v", s)
		}
		if pauses = append(pauses, d); len(pauses) == 12 {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Error(err)
			}
		}
	}
	drain(t, q, o)
	if n := strings.Count(content(t, path), "\n"); n != 50 {
		t.Fatalf("%d lines, want 50", n)
	}
	if s := o.Status(); s.Delivered != 50 || s.Errors != 12 || s.LastError != "" {
		t.Fatalf("status %v", s)
	}
	if want := "file write to " + path + ": open " + path + ": no such file or directory; file <nil>; "; notices != want {
		t.Errorf("noticed %q, want %q", notices, want)
	}
	for i, d := range pauses {
		full := min(minWait<<i, maxWait)
		if d < full/2 || d > full {
			t.Errorf("pause %d is %v, want between %v and %v", i, d, full/2, full)
		}
	}
	// A restart goes on where the position is.
	q.add(t, finding(50, 1))
	drain(t, q, mustOutlet(t, Config{Kind: "file", Path: path}, World{}))
	if n := strings.Count(content(t, path), "\n"); n != 51 {
		t.Fatalf("%d lines after a restart, want 51", n)
	}
}

// stuck is a sink that never takes a line.
type stuck struct{ release chan struct{} }

func (s stuck) Write([]byte) error { <-s.release; return errors.New("released") }
func (stuck) Sync() error          { return nil }
func (stuck) Close() error         { return nil }

func TestStuckSinkHoldsUpNoOther(t *testing.T) {
	q := &queue{position: map[string]int{}}
	for i := range 20 {
		q.add(t, finding(i, 1))
	}
	slow := mustOutlet(t, Config{Kind: "stdout", Name: "slow"}, World{Stdout: &bytes.Buffer{}})
	s := stuck{make(chan struct{})}
	slow.sink = s
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- slow.Run(ctx, q.watch, "fi") }()
	var out bytes.Buffer
	drain(t, q, mustOutlet(t, Config{Kind: "stdout", Name: "fast"}, World{Stdout: &out}))
	if n := strings.Count(out.String(), "\n"); n != 20 || slow.Status().Delivered != 0 {
		t.Fatalf("fast sink got %d of 20, slow one %d", n, slow.Status().Delivered)
	}
	cancel()
	close(s.release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
