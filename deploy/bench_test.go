package deploy

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bench is one run of the table of `make bench`.
type bench struct {
	t             *testing.T
	dir           string            // certificate and pages
	libraries     string            // the clients' own
	floor         string            // the program
	stages        []string          // of the governor, besides the first
	learned       map[string]string // server → data directory of an agent that has decided about its files
	teaches       bool
	rounds, calls int
	samples       []sample
	resident      []occupied // of each agent that there was, at its end
	crowd         occupied   // of the agent at 1,000 connections
	crowdSeen     float64    // share of the calls in them
}

// sample is one load under one arm. Times are CPU per call.
type sample struct {
	server, load, arm string
	round             int
	cpu               time.Duration
	none              time.Duration // of the same load just before, with nothing attached
	also              map[string]time.Duration
	seen              float64 // share of the calls; negative = the arm sees nothing
}

func (s sample) ratio() float64 { return float64(s.cpu) / float64(s.none) }

func (s sample) totalRatio() float64 { return float64(s.total()) / float64(s.none) }

// total leaves the collector out: it is on another host, and here it answers the test's questions too.
func (s sample) total() time.Duration { return s.cpu + s.also["agent"] + s.also["proxy"] }

// TestBench prints the table of `make bench`. In each round every arm is measured right after the server alone, and the
// arms' order changes from round to round: only ratios of such pairs are compared, and of those the medians told.
func TestBench(t *testing.T) {
	if os.Getenv("TEST_SPILE_BENCH") == "" {
		t.Skip("takes minutes and wants a quiet machine: run by `make bench`")
	}
	needsRoot(t)
	b := newBench(t, setting(t, "BENCH_ROUNDS", 5), setting(t, "BENCH_CALLS", benchCalls))
	b.teaches = true
	only := os.Getenv("BENCH_ONLY")
	for _, s := range benchServers(t) {
		b.measure(s, func(a arm) bool { return strings.Contains(s.name+" "+a.name, only) })
	}
	if b.learned["nginx"] != "" {
		b.measureCrowd()
	}
	b.publish()
	if only == "" {
		goBench(t, "../collector/owner", "BenchmarkTake", "collector: decode, route, inventory, rules")
		goBench(t, "../collector", "BenchmarkCollector", "collector: from mTLS to the committed inventory, client and server in one process")
		goBench(t, "../proto/columns", "Benchmark", "wire: batches of 100, 1,000 and 5,000 calls")
	}
}

// TestBenchPlumbing runs one short round of the whole table: each arm works and misses no call. It is no measurement, so
// the only figure that it holds is one that nothing but a blunder exceeds.
func TestBenchPlumbing(t *testing.T) {
	needsRoot(t)
	b := newBench(t, 1, 300)
	if len(b.stages) > 0 {
		b.stages = b.stages[:1] // the others show calls without a status, which make no endpoint, or a part of all calls
	}
	for _, s := range benchServers(t) {
		s.loads = []benchLoad{s.loads[0], s.loads[len(s.loads)-1]}
		b.measure(s, func(a arm) bool { return s.first || a.name == armCopy || a.name == armSpile })
	}
	for _, s := range b.samples {
		if s.cpu <= 0 || s.none <= 0 || s.also["agent"] < 0 {
			t.Errorf("no CPU: %s", s)
		}
		if s.seen >= 0 && s.seen != 1 {
			t.Errorf("calls are missing: %s", s)
		}
		if s.arm == armSpile && s.ratio() > blunder {
			t.Errorf("more than %dx: %s", blunder, s)
		}
	}
}

const blunder = 16

// benchCalls make a load last for one to four seconds. An agent takes some 90 ms besides while one load is measured (it
// rests, it looks at each program that the test starts), and of fewer calls that would be the larger part.
const benchCalls = 48_000

func newBench(t *testing.T, rounds, calls int) *bench {
	t.Helper()
	return &bench{t: t, dir: benchFiles(t), libraries: privateLibraries(t), floor: benchProgram(t, "floor"), stages: offeredStages(t), learned: map[string]string{}, rounds: rounds, calls: calls}
}

func setting(t testing.TB, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number from 1 on", name, text)
	}
	return n
}

// measure runs all rounds of a server.
func (b *bench) measure(s benchServer, wanted func(arm) bool) {
	b.t.Helper()
	arms := slices.DeleteFunc(benchArms(b, s), func(a arm) bool { return !wanted(a) })
	if len(arms) == 0 {
		return
	}
	t := stoppable(b.t)
	pid := s.start(t, b.dir)
	defer t.stop()
	eventually(b.t, 10*time.Second, s.name+" listens", func() bool { return dials(address(benchPort)) })
	if b.teaches {
		b.warm(benchPort, s, 20_000) // node compiles what is called often
		b.teach(s)
	}
	for round := range b.rounds {
		for i := range arms {
			b.pair(s, pid, round, arms[(i+round)%len(arms)])
		}
	}
}

func (b *bench) warm(port int, s benchServer, calls int) {
	b.t.Helper()
	for _, l := range s.loads {
		b.ask(port, l, calls/len(s.loads))
	}
}

// pair measures a server alone and under an arm.
func (b *bench) pair(s benchServer, pid, round int, a arm) {
	b.t.Helper()
	alone := map[benchLoad]time.Duration{}
	for _, l := range s.loads {
		before := cpu(b.t, pid)
		b.ask(benchPort, l, b.calls)
		alone[l] = (cpu(b.t, pid) - before) / time.Duration(b.calls)
	}
	in := a.begin(b, s, pid)
	defer in.end()
	if in.port == 0 {
		in.port = benchPort
	}
	const warmUp = 600
	b.warm(in.port, s, warmUp)
	if in.settle != nil {
		in.settle(warmUp, func() {})
	}
	for _, l := range s.loads {
		started, ended := b.spent(in), map[string]time.Duration{}
		in.tell(syscall.SIGSTOP)
		before := cpu(b.t, pid)
		b.ask(in.port, l, b.calls)
		m := sample{server: s.name, load: l.String(), arm: a.name, round: round, none: alone[l], also: map[string]time.Duration{}, seen: -1}
		m.cpu = (cpu(b.t, pid) - before) / time.Duration(b.calls)
		in.tell(syscall.SIGCONT)
		if in.settle != nil {
			m.seen = in.settle(b.calls, func() { ended = b.spent(in) })
		} else {
			ended = b.spent(in)
		}
		for who := range in.costs {
			m.also[who] = (ended[who] - started[who]) / time.Duration(b.calls)
		}
		b.samples = append(b.samples, m)
		fmt.Printf("round %d of %d: %s\n", round+1, b.rounds, m)
	}
}

// spent is what those beside the server have used so far.
func (b *bench) spent(in *armed) map[string]time.Duration {
	b.t.Helper()
	all := map[string]time.Duration{}
	for who, pid := range in.costs {
		all[who] = cpu(b.t, pid)
	}
	return all
}

func (s sample) String() string {
	text := fmt.Sprintf("%-6s %-8s %-24s %6.1f µs  %5.2fx none", s.server, s.load, s.arm, micro(s.cpu), s.ratio())
	for _, who := range []string{"agent", "collector", "proxy"} {
		if d, ok := s.also[who]; ok {
			text += fmt.Sprintf("  %s %.1f µs", who, micro(d))
		}
	}
	if s.seen >= 0 {
		text += fmt.Sprintf("  %.2f%% seen", 100*s.seen)
	}
	return text
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
