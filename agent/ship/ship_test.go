package ship

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spile/spile/proto/columns"
	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// nowhere is an agent whose collector does not listen.
func nowhere(t testing.TB) Config {
	return Config{Address: "127.0.0.1:1", TLS: &tls.Config{MinVersion: tls.VersionTLS13}, SpoolDir: t.TempDir(), Epoch: 7,
		MaxDelay: 10 * time.Millisecond}
}

func testCall(i int) *v1.Call {
	return &v1.Call{Id: fmt.Sprintf("%032x", i), Time: timestamppb.New(time.Unix(1e9+int64(i), 0)), Method: "GET", Path: "/a"}
}

func newShipper(t testing.TB, cfg Config) *Shipper {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// runFor runs s until f returns.
func runFor(t *testing.T, s *Shipper, f func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	f()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func mustBalance(t *testing.T, c Counts) {
	t.Helper()
	sum := c.Queued + c.Spooled + c.Receipted + c.Rejected
	for _, n := range c.Dropped {
		sum += n
	}
	if c.Added+c.Recovered != sum {
		t.Errorf("account does not balance: %+v", c)
	}
}

func TestAddNeverBlocks(t *testing.T) {
	cfg := nowhere(t)
	cfg.QueueCalls = 100
	s := newShipper(t, cfg) // Not running: nobody empties the queue.
	for i := range 1000 {
		s.Add(testCall(i))
	}
	c := s.Counts()
	if c.Queued != 100 || c.Dropped[DropQueueFull] != 900 {
		t.Errorf("%+v", c)
	}
	mustBalance(t, c)
	runFor(t, s, func() {})
	c = s.Counts()
	if c.Spooled != 100 || c.Queued != 0 {
		t.Errorf("what was queued at the end is not in the spool: %+v", c)
	}
	s.Add(testCall(1))
	if c = s.Counts(); c.Dropped[DropClosed] != 1 {
		t.Errorf("after the end: %+v", c)
	}
	mustBalance(t, c)
}

func TestAccountBalancesUnderManyAdders(t *testing.T) {
	cfg := nowhere(t)
	cfg.QueueCalls, cfg.MaxCalls, cfg.SpoolBytes = 64, 50, 64<<10
	s := newShipper(t, cfg)
	runFor(t, s, func() {
		var adders sync.WaitGroup
		for k := range 4 {
			adders.Go(func() {
				for i := range 5000 {
					s.Add(testCall(k*5000 + i))
				}
			})
		}
		adders.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		if err := s.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "stay in the spool") {
			t.Errorf("drain without a collector: %v", err)
		}
	})
	c := s.Counts()
	mustBalance(t, c)
	if c.Added != 20_000 || c.Queued != 0 {
		t.Errorf("%+v", c)
	}
}

func TestCallsThatCannotBeSentAreDroppedAlone(t *testing.T) {
	s := newShipper(t, nowhere(t))
	huge := testCall(2)
	for i := range 40 { // Random text does not compress: beyond one payload.
		huge.Coverage = append(huge.Coverage, incompressible(i, 60<<10))
	}
	noID := testCall(3)
	noID.Id = "short"
	runFor(t, s, func() {
		s.Add(testCall(1))
		s.Add(huge)
		s.Add(noID)
		s.Add([]*v1.Call{nil}...)
		s.Add(testCall(4))
	})
	c := s.Counts()
	if c.Dropped[DropInvalid] != 2 || c.Dropped[DropTooLarge] != 1 || c.Spooled != 2 {
		t.Errorf("%+v", c)
	}
	mustBalance(t, c)
}

func incompressible(seed, n int) string {
	x, b := uint64(seed)*2654435761+1, make([]byte, n)
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"[x>>58]
	}
	return string(b)
}

func TestNoticeTellsEachTroubleOnce(t *testing.T) {
	cfg := nowhere(t)
	var mu sync.Mutex
	var lines []string
	cfg.Notice = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, fmt.Sprint(err))
	}
	s := newShipper(t, cfg)
	runFor(t, s, func() { time.Sleep(700 * time.Millisecond) }) // Several tries.
	mu.Lock()
	defer mu.Unlock()
	if len(lines) != 1 || !strings.Contains(lines[0], "127.0.0.1:1") || !strings.Contains(lines[0], "connection refused") {
		t.Errorf("notices: %q", lines)
	}
}

// Nothing is kept of a call that was added: it may be made anew at once.
func TestCallsStayTheCallers(t *testing.T) {
	cfg := nowhere(t)
	cfg.MaxCalls, cfg.MaxDelay = 7, time.Hour
	s := newShipper(t, cfg)
	runFor(t, s, func() {
		c := testCall(0)
		for i := range 50 {
			c.Id, c.Path = fmt.Sprintf("%032x", i+1), fmt.Sprintf("/%d", i)
			s.Add(c)
		}
	})
	dec, err := columns.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	files, err := filepath.Glob(filepath.Join(cfg.SpoolDir, "*"+segmentSuffix))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	_, found, err := openSegment(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range found.entries {
		r, err := e.read()
		if err != nil {
			t.Fatal(err)
		}
		calls, err := dec.Decode(r.payload)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range calls {
			paths = append(paths, c.Path)
		}
	}
	for i := range 50 {
		if i >= len(paths) || paths[i] != fmt.Sprintf("/%d", i) {
			t.Fatalf("paths %q", paths)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, edit := range []func(*Config){
		func(c *Config) { c.Address = "" }, func(c *Config) { c.TLS = nil }, func(c *Config) { c.SpoolDir = "" }, func(c *Config) { c.Epoch = 0 },
	} {
		cfg := nowhere(t)
		edit(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
}

func BenchmarkAddToSpool(b *testing.B) {
	cfg := nowhere(b)
	cfg.QueueCalls, cfg.MaxDelay = 1<<20, time.Hour
	s := newShipper(b, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	c := testCall(1)
	for b.Loop() {
		s.Add(c)
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(s.Counts().Dropped[DropQueueFull])/float64(b.N), "dropped/call")
}
