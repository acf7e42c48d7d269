package deploy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/spile/spile/agent/ship"
	"github.com/spile/spile/collector/identity"
	"github.com/spile/spile/collector/intake"
	"github.com/spile/spile/proto/columns"
	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// memory is a journal that remembers what was acknowledged, and can fail or wait on demand.
type memory struct {
	mu      sync.Mutex
	records []intake.Record
	fail    func() error
	delay   time.Duration
}

func (m *memory) Append(ctx context.Context, partition int, r intake.Record) error {
	if m.delay > 0 {
		time.Sleep(m.delay)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		if err := m.fail(); err != nil {
			return err
		}
	}
	if partition < 0 || partition >= intake.Partitions {
		return fmt.Errorf("partition %d, %d calls", partition, r.Count)
	}
	m.records = append(m.records, r)
	return nil
}

// calls lists the ids in the journal with how often each is there, all and after dedupe.
func (m *memory) calls(t *testing.T) (all, once map[string]int) {
	t.Helper()
	type key struct {
		agent      string
		epoch, seq uint64
		partition  int
	}
	dec, err := columns.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	all, once, seen := map[string]int{}, map[string]int{}, map[key]bool{}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.records {
		list, err := dec.Decode(r.Payload)
		if err != nil || len(list) != int(r.Count) {
			t.Fatalf("journal holds a record of %d calls that decodes to %d: %v", r.Count, len(list), err)
		}
		k := key{r.Agent, r.Epoch, r.Seq, intake.Partition(list[0].Service)}
		for _, c := range list {
			if c.Node != r.Agent || intake.Partition(c.Service) != k.partition || c.Time.AsTime().Before(r.Min) || c.Time.AsTime().After(r.Max) {
				t.Fatalf("record of agent %s, partition %d, %v to %v holds %v", r.Agent, k.partition, r.Min, r.Max, c)
			}
			all[c.Id]++
			if !seen[k] {
				once[c.Id]++
			}
		}
		seen[k] = true
	}
	return all, once
}

// wire is a collector's door with its identity, which can be closed and opened at one address.
type wire struct {
	t       *testing.T
	id      *identity.Authority
	journal *memory
	address string
	server  *intake.Server
	stop    func()
}

func newWire(t *testing.T) *wire {
	t.Helper()
	if os.Getenv("TEST_SPILE_NETNS") != "" {
		needsRoot(t)
	}
	id, err := identity.Open(t.TempDir()+"/identity", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, id: id, journal: &memory{}, address: "127.0.0.1:0", stop: func() {}}
	w.open()
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *wire) open() {
	w.t.Helper()
	l, err := net.Listen("tcp", w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.address = l.Addr().String()
	w.server, err = intake.New(intake.Config{Journal: w.journal, Key: w.id.Key(), KeyEpoch: identity.KeyEpoch, Collector: "test",
		Node: identity.NodeOf, Speaker: identity.Speaker, Now: time.Now, Notice: func(err error) { w.t.Error(err) }})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := w.server
	go func() { done <- server.Serve(ctx, l, w.id.ServerTLS()) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		w.stop = func() {}
	}
}

// config is an agent's, with intervals for tests.
func (w *wire) config(node, spool string) ship.Config {
	w.t.Helper()
	bundle, err := w.id.Issue(node)
	if err != nil {
		w.t.Fatal(err)
	}
	conf, err := bundle.ClientTLS()
	if err != nil {
		w.t.Fatal(err)
	}
	return ship.Config{Address: w.address, TLS: conf, SpoolDir: spool, Node: node, Version: "test", Kernel: "test",
		Epoch: uint64(time.Now().UnixNano()), MaxDelay: 20 * time.Millisecond, QueueCalls: 1 << 16}
}

// running is an agent's shipper with its goroutine.
type running struct {
	*ship.Shipper
	kill func()
}

func startShip(t *testing.T, cfg ship.Config) running {
	t.Helper()
	s, err := ship.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	kill := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(kill)
	return running{s, kill}
}

// madeCall is the i-th call of a test; the authority spreads calls over services.
func madeCall(i int) *v1.Call {
	return &v1.Call{Id: fmt.Sprintf("%032x", i), Time: timestamppb.Now(), Protocol: "http/1.1", Method: "GET", Node: "liar",
		Authority: fmt.Sprintf("service-%d.example", i%17), Path: fmt.Sprintf("/things/%d", i), StatusCode: 200}
}

// mustBalance checks ship's account: everything added is somewhere, by name.
func mustBalance(t *testing.T, c ship.Counts) {
	t.Helper()
	sum := c.Queued + c.Spooled + c.Receipted + c.Rejected
	for _, n := range c.Dropped {
		sum += n
	}
	if c.Added+c.Recovered != sum {
		t.Errorf("account does not balance: %+v", c)
	}
}

func mustHave(t *testing.T, m *memory, n int) {
	t.Helper()
	all, once := m.calls(t)
	for i := range n {
		id := fmt.Sprintf("%032x", i)
		if all[id] < 1 || once[id] != 1 {
			t.Fatalf("call %d is %d times in the journal, %d times after dedupe", i, all[id], once[id])
		}
	}
	if len(all) != n {
		t.Errorf("journal holds %d distinct calls, want %d", len(all), n)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestWireLosesNothingAcrossCollectorRestarts(t *testing.T) {
	w := newWire(t)
	w.journal.delay = 200 * time.Microsecond
	var key []byte
	cfg := w.config("node-1", t.TempDir())
	cfg.MaxCalls = 700 // More than one record of the journal where one service has them all.
	cfg.OnWelcome = func(k []byte, _ uint32) { key = k }
	s := startShip(t, cfg)
	const calls, restarts = 50_000, 20
	for i := range calls {
		s.Add(madeCall(i))
		if i%(calls/restarts) == calls/restarts-1 {
			time.Sleep(time.Duration(rand.N(30)) * time.Millisecond)
			w.stop()
			w.open()
		}
	}
	if err := s.Drain(within(t, 60*time.Second)); err != nil {
		t.Fatal(err)
	}
	c := s.Counts()
	mustBalance(t, c)
	if c.Receipted != calls || c.Spooled != 0 || len(c.Dropped) != 0 || c.SpoolBytes > 1<<20 {
		t.Errorf("after draining: %+v", c)
	}
	mustHave(t, w.journal, calls)
	s.kill()
	if string(key) != string(w.id.Key()) {
		t.Error("Welcome did not hand out the install key")
	}
}

func TestWireJournalFailuresAreRetried(t *testing.T) {
	w := newWire(t)
	failures := 0
	w.journal.fail = func() error {
		if failures < 30 && rand.N(3) == 0 {
			failures++
			return errors.New("disk is full")
		}
		return nil
	}
	s := startShip(t, w.config("node-1", t.TempDir()))
	for i := range 5000 {
		s.Add(madeCall(i))
	}
	if err := s.Drain(within(t, 60*time.Second)); err != nil {
		t.Fatal(err)
	}
	mustHave(t, w.journal, 5000)
	mustBalance(t, s.Counts())
	if n := w.server.Counts().JournalErrors; n == 0 || failures == 0 {
		t.Errorf("%d failures, %d counted", failures, n)
	}
}

func TestWireCollectorDownThenUp(t *testing.T) {
	w := newWire(t)
	w.stop()
	s := startShip(t, w.config("node-1", t.TempDir()))
	for i := range 3000 {
		s.Add(madeCall(i))
		if i%300 == 0 {
			time.Sleep(150 * time.Millisecond)
		}
	}
	if c := s.Counts(); c.Receipted != 0 || c.Connected {
		t.Fatalf("with the collector down: %+v", c)
	}
	w.open()
	if err := s.Drain(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	mustHave(t, w.journal, 3000)
	mustBalance(t, s.Counts())
}

func TestWireAgentRestartSendsWhatWasLeft(t *testing.T) {
	w := newWire(t)
	w.stop()
	spool := t.TempDir()
	cfg := w.config("node-1", spool)
	first := startShip(t, cfg)
	for i := range 1000 {
		first.Add(madeCall(i))
	}
	first.kill()
	mustBalance(t, first.Counts())
	w.open()
	second := startShip(t, cfg) // The clock stood still: the same epoch must not be used again.
	if second.Epoch() <= first.Epoch() {
		t.Errorf("epoch %d after %d", second.Epoch(), first.Epoch())
	}
	for i := 1000; i < 2000; i++ {
		second.Add(madeCall(i))
	}
	if err := second.Drain(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	if c := second.Counts(); c.Recovered != 1000 || c.Receipted != 2000 {
		t.Errorf("after the restart: %+v", c)
	}
	mustBalance(t, second.Counts())
	mustHave(t, w.journal, 2000)
	w.journal.mu.Lock()
	defer w.journal.mu.Unlock()
	if w.journal.records[0].Epoch != first.Epoch() {
		t.Error("what was left over did not go first")
	}
}
