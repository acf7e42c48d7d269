package main

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/govern"
	"github.com/spile/spile/agent/probe"
	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
)

// fakeHost is a kernel and a registry that do as they are told.
type fakeHost struct {
	all    bpf.Shed
	one    map[uint64]bpf.Shed
	sets   int
	losses []bpf.CgroupLoss
	costs  map[uint64]time.Duration // by inode
	reads  int
	out    map[uint64]bool
	err    error
}

func (h *fakeHost) SetShed(all bpf.Shed, one map[uint64]bpf.Shed) error {
	h.all, h.one, h.sets = all, one, h.sets+1
	return h.err
}

func (h *fakeHost) CgroupLosses() ([]bpf.CgroupLoss, error) { return h.losses, h.err }

func (h *fakeHost) Costs(ns func(target.Class, bool) float64) ([]probe.Cost, error) {
	h.reads++
	var list []probe.Cost
	for ino, c := range h.costs {
		list = append(list, probe.Cost{ID: target.Identity{Ino: ino}, Cost: c, Hits: uint64(ns(target.Emulated, false))})
	}
	return list, h.err
}

func (h *fakeHost) Suspend(id target.Identity, by, why string, d time.Duration) bool {
	h.out[id.Ino] = true
	return true
}

func (h *fakeHost) Resume(id target.Identity, by string) bool {
	delete(h.out, id.Ino)
	return true
}

// governed is a governor of a fake host, and what it said.
type governed struct {
	*governor
	host *fakeHost
	said strings.Builder
	in   uint64 // chunks of each of two cgroups in a second
	at   time.Duration
	used time.Duration
}

func newGoverned(b govern.Budget) *governed {
	w := &governed{host: &fakeHost{costs: map[uint64]time.Duration{}, out: map[uint64]bool{}}, at: time.Hour, in: 100_000}
	w.governor = newGovernor(b, w.host, w.host, slog.New(slog.NewTextHandler(&w.said, nil)))
	w.governor.cpu = func() time.Duration { return w.used }
	w.names = func() map[target.Identity]string { return map[target.Identity]string{{Ino: 7}: "/lib/libssl.so.3"} }
	w.turn(w.at)
	return w
}

// run lets seconds pass, with these cores used by the agent and by the probes of each file.
func (w *governed) run(seconds int, agent float64, files map[uint64]float64) {
	for range seconds {
		w.at += time.Second
		w.used += time.Duration(agent * 1e9)
		w.arrived = append(w.arrived, govern.Share{Cgroup: 1, Events: w.in}, govern.Share{Cgroup: 2, Events: w.in})
		for ino, cores := range files {
			if !w.host.out[ino] {
				w.host.costs[ino] += time.Duration(cores * 1e9)
			}
		}
		w.turn(w.at)
	}
}

func TestTheGovernorHasTheKernelShowLess(t *testing.T) {
	w := newGoverned(govern.Budget{Agent: 1, Probes: 2})
	w.run(9, 3, nil)
	if w.host.sets != 0 {
		t.Fatal("before the first ten seconds are over")
	}
	for _, want := range []bpf.Shed{
		{Bodies: true, OneIn: 1}, {Bodies: true, Responses: true, OneIn: 1}, {Bodies: true, Responses: true, OneIn: 2}, {Bodies: true, Responses: true, OneIn: 4},
	} {
		w.run(10, 3, nil)
		if w.host.all != want || w.host.one != nil {
			t.Fatalf("%+v %v, want %+v", w.host.all, w.host.one, want)
		}
	}
	h := w.account(0)
	if h.Stage != "sampled" || h.AgentCores < 2.9 || h.AgentBudgetCores != 1 || h.ProbeBudgetCores != 2 || !strings.HasSuffix(h.Reason, "one connection in 4 is kept") ||
		h.Since.AsTime().Before(time.Unix(3600, 0)) {
		t.Errorf("%v", h)
	}
	for _, line := range []string{"stage=no_bodies of=all", "stage=no_responses", "connections=\"1 in 4\"", "--cpu-budget"} {
		if !strings.Contains(w.said.String(), line) {
			t.Errorf("%q was not said:\n%s", line, w.said.String())
		}
	}
	w.run(1000, 0, nil)
	if w.host.all != (bpf.Shed{OneIn: 1}) || w.account(0).Stage != "full" || !strings.Contains(w.said.String(), "everything is taken in again") {
		t.Errorf("%+v %v", w.host.all, w.account(0))
	}
	counts := map[string]uint64{}
	for _, c := range w.counts() {
		counts[c.Name] = c.Value
	}
	if counts["entered_full"] != 1 || counts["entered_no_bodies"] != 2 || counts["entered_sampled"] < 3 {
		t.Errorf("%v", counts)
	}
	if lines := strings.Count(w.said.String(), "\n"); lines != w.host.sets {
		t.Errorf("%d changes in %d lines", w.host.sets, lines)
	}
}

func TestTheGovernorDegradesTheCgroupThatIsBusy(t *testing.T) {
	w := newGoverned(govern.Budget{Agent: 1})
	w.cgroup = func(id uint64) string { return fmt.Sprintf("/c%d", id) }
	in := &arrivals{by: map[uint64]*govern.Share{}}
	w.in = 0
	for range 12 {
		for i := range 100 {
			in.add(&chunk.Chunk{Owner: chunk.Owner{Cgroup: uint64(3 + i%2)}})
		}
		in.hand(w.governor)
		// Most of what 9 sends finds no room: it is the busiest all the same.
		w.host.losses = []bpf.CgroupLoss{{Cgroup: 9, Reason: "pressure", Events: 1_000_000 * uint64(w.at/time.Second)}, {Cgroup: 3, Reason: "sampled", Events: 1e9 * uint64(w.at/time.Second)}}
		w.run(1, 3, nil)
	}
	if want := map[uint64]bpf.Shed{9: {Bodies: true, OneIn: 1}}; w.host.all != (bpf.Shed{}) || !reflect.DeepEqual(w.host.one, want) {
		t.Errorf("%+v %v", w.host.all, w.host.one)
	}
	if h := w.account(0); h.Cgroup != "/c9" {
		t.Errorf("%v", h)
	}
}

func TestTheGovernorTakesOutTheDearestFile(t *testing.T) {
	w := newGoverned(govern.Budget{Agent: 1, Probes: 1})
	w.run(12, 0.1, map[uint64]float64{7: 1.5, 8: 0.4})
	if !w.host.out[7] || w.host.out[8] || w.account(0).Stage != "detached" {
		t.Fatalf("out are %v, %v", w.host.out, w.account(0))
	}
	if !strings.Contains(w.said.String(), "/lib/libssl.so.3") {
		t.Errorf("it has no name:\n%s", w.said.String())
	}
	// A file that stays out is suspended again before the registry would take it back by itself.
	w.run(1, 0.1, map[uint64]float64{8: 0.9})
	clear(w.host.out)
	for range int(suspendAgain/time.Second) + 20 {
		w.run(1, 0.1, map[uint64]float64{8: 0.9})
	}
	if !w.host.out[7] {
		t.Error("it came back too early")
	}
	w.run(200, 0.1, map[uint64]float64{8: 0.1})
	if len(w.host.out) != 0 || w.account(0).Stage != "full" {
		t.Errorf("out are %v, %v", w.host.out, w.account(0))
	}
	if len(w.governor.out) != 0 {
		t.Errorf("%v", w.governor.out)
	}
}

// Between two readings of what probes cost, a file that was taken out costs nothing.
func TestAFileThatIsOutCostsNothing(t *testing.T) {
	w := newGoverned(govern.Budget{Agent: 1, Probes: 1})
	w.run(8, 0.1, map[uint64]float64{7: 1.5, 8: 0.4})
	if w.host.out[7] {
		t.Fatal("too early")
	}
	w.nextPrice = w.at + 5*time.Second // reading took long
	for range 4 {
		w.run(1, 0.1, map[uint64]float64{8: 0.4})
	}
	if !w.host.out[7] {
		t.Fatalf("out are %v", w.host.out)
	}
	if probes := w.account(0).ProbeCores; probes > 0.41 {
		t.Errorf("what is left costs %.2f cores, want 0.4", probes)
	}
}

// Of two files that are out the first to return is no degradation.
func TestAFileThatReturnsIsTold(t *testing.T) {
	w := newGoverned(govern.Budget{Agent: 1, Probes: 1})
	w.run(40, 0.1, map[uint64]float64{7: 3, 8: 2, 9: 0.1})
	if len(w.host.out) != 2 {
		t.Fatalf("out are %v", w.host.out)
	}
	before := strings.Count(w.said.String(), "less is taken in")
	for i := 0; i < 400 && len(w.host.out) == 2; i++ {
		w.run(1, 0.1, map[uint64]float64{9: 0.1})
	}
	if len(w.host.out) != 1 || w.account(0).Stage != "detached" {
		t.Fatalf("out are %v, %v", w.host.out, w.account(0))
	}
	if said := w.said.String(); strings.Count(said, "less is taken in") != before || !strings.Contains(said, "more is taken in again") {
		t.Errorf("said:\n%s", said)
	}
}

// Naming all files takes one look at them, however many are new.
func TestFilesAreNamedTogether(t *testing.T) {
	w := newGoverned(govern.Budget{Agent: 1, Probes: 1})
	asked := 0
	w.names = func() map[target.Identity]string { asked++; return nil }
	files := map[uint64]float64{}
	for i := range uint64(100) {
		files[100+i] = 0.001
	}
	w.run(5, 0.1, files)
	if asked != 1 {
		t.Errorf("%d looks at all files", asked)
	}
}

func TestWhatFailsIsToldOnce(t *testing.T) {
	w := newGoverned(govern.Budget{Agent: 1, Probes: 1})
	w.host.err = errors.New("no")
	w.run(30, 3, map[uint64]float64{7: 5})
	for _, what := range []string{"read what probes cost", "read the losses of cgroups", "have the kernel show less"} {
		if n := strings.Count(w.said.String(), "msg=\""+what); n != 1 {
			t.Errorf("%q was told %d times", what, n)
		}
	}
}

// Before Linux 5.15 nobody knows which file was hit.
func TestHitsThatBelongToNoFile(t *testing.T) {
	w := newGoverned(govern.Budget{Agent: 1, Probes: 1})
	hits := uint64(0)
	w.ns = func(target.Class, bool) float64 { return 5000 }
	w.loose = func() (uint64, error) { return hits, nil }
	for range 20 {
		hits += 400_000 // 2 cores
		w.run(1, 0.1, map[uint64]float64{7: 0.1})
	}
	h := w.account(0)
	if h.ProbeCores < 1.99 || h.Stage != "detached" || !w.host.out[7] {
		t.Errorf("%v, out are %v", h, w.host.out)
	}
	if n := strings.Count(w.said.String(), "a budget is exceeded"); n != 1 || !strings.Contains(h.Reason, "no file that could be detached") {
		t.Errorf("said %d times: %s", n, w.said.String())
	}
}

func TestALibraryThatRestsIsTold(t *testing.T) {
	w := newGoverned(govern.Budget{Library: 0.5})
	w.run(15, 0.1, map[uint64]float64{7: 0.6})
	if !w.host.out[7] || w.account(0).Stage != "full" || strings.Count(w.said.String(), "probes are taken out") != 1 {
		t.Errorf("out are %v, said %s", w.host.out, w.said.String())
	}
}

// A stopped agent: nothing is known of the time between, and nothing follows from it.
func TestTheGovernorAfterAStop(t *testing.T) {
	w := newGoverned(govern.Budget{Agent: 1, Probes: 1})
	w.run(5, 0.5, map[uint64]float64{7: 0.1})
	w.at += time.Minute
	w.host.costs[7] += 6 * time.Second // a minute of 0.1
	w.run(1, 0.5, map[uint64]float64{7: 0.1})
	if w.host.sets != 0 || len(w.host.out) != 0 || w.account(0).ProbeCores > 0.11 {
		t.Errorf("%+v, %v", w.host, w.account(0))
	}
}

// On a host without cgroup v2 everybody is in its root: nobody is degraded in the name of all.
func TestTheRootIsNoCgroupOfItsOwn(t *testing.T) {
	w := newGoverned(govern.Budget{Agent: 1})
	in := &arrivals{by: map[uint64]*govern.Share{}}
	w.in = 0
	for range 12 {
		for range 1000 {
			in.add(&chunk.Chunk{Owner: chunk.Owner{Cgroup: rootCgroup}, Data: make([]byte, 1<<16)})
		}
		in.hand(w.governor)
		w.host.losses = []bpf.CgroupLoss{{Cgroup: rootCgroup, Reason: "ring_full", Events: 1_000_000 * uint64(w.at/time.Second)}}
		w.run(1, 3, nil)
	}
	if w.host.one != nil || !w.host.all.Bodies {
		t.Errorf("%+v %v", w.host.all, w.host.one)
	}
}

func TestArrivalsAreBounded(t *testing.T) {
	in, w := &arrivals{by: map[uint64]*govern.Share{}}, newGoverned(govern.Budget{Agent: 1})
	const cgroups = 3 * maxArrivals
	for i := range cgroups {
		in.add(&chunk.Chunk{Owner: chunk.Owner{Cgroup: uint64(i + 1)}, Data: []byte("x")})
	}
	if len(in.by) > maxArrivals+1 {
		t.Errorf("%d cgroups", len(in.by))
	}
	in.hand(w.governor)
	events := uint64(0)
	for _, s := range w.governor.shares() {
		events += s.Events
	}
	if events != cgroups || len(in.by) != 0 {
		t.Errorf("%d events of %d, %d are left", events, cgroups, len(in.by))
	}
	for range 100 { // nobody takes them
		for i := range maxArrivals {
			in.add(&chunk.Chunk{Owner: chunk.Owner{Cgroup: uint64(i)}})
		}
		in.hand(w.governor)
	}
	if len(w.governor.arrived) > 2*maxArrivals {
		t.Errorf("%d wait", len(w.governor.arrived))
	}
}

func TestLossesOfCgroupsAreNamedAndBounded(t *testing.T) {
	list := []bpf.CgroupLoss{{Cgroup: 5, Reason: "budget", Heads: 1, Events: 2, Bytes: 3}, {Cgroup: 0, Reason: "ring_full", Heads: 9}}
	rows := cgroupLosses(list, func(id uint64) string { return fmt.Sprint("/c", id) })
	if len(rows) != 2 || rows[0].Cgroup != "others" || rows[1].Cgroup != "/c5" || rows[1].Calls != 2 || rows[1].Bytes != 3 || rows[1].Heads != 1 {
		t.Errorf("%v", rows)
	}
	list = nil
	for i := range uint64(200) {
		list = append(list, bpf.CgroupLoss{Cgroup: i + 1, Heads: i})
	}
	if rows := cgroupLosses(list, func(uint64) string { return "" }); len(rows) != maxLosses || rows[0].Heads != 199 {
		t.Errorf("%d rows, %v", len(rows), rows[0])
	}
}

// The cost of the governor's own turn, without the kernel's part.
func BenchmarkGovernorTurn(b *testing.B) {
	w := newGoverned(govern.Budget{Agent: 1, Probes: 1})
	for i := range uint64(500) {
		w.host.costs[i] = time.Duration(i)
	}
	in := &arrivals{by: map[uint64]*govern.Share{}}
	for b.Loop() {
		for i := range 300 {
			in.add(&chunk.Chunk{Owner: chunk.Owner{Cgroup: uint64(i)}})
		}
		in.hand(w.governor)
		w.at += time.Second
		w.turn(w.at)
	}
}
