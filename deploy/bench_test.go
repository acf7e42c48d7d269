package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

const (
	benchRounds = 5
	benchCalls  = 8000
)

// TestBench prints the table of `make bench`: nginx alone, with empty probes (the floor of the technique) and with
// Spile, interleaved in each round, so that only ratios inside one round are compared. CPU is the scheduler's own account.
func TestBench(t *testing.T) {
	if os.Getenv("TEST_SPILE_BENCH") == "" {
		t.Skip("takes minutes and wants a quiet machine: run by `make bench`")
	}
	needsRoot(t)
	server := startNginx(t)
	uris := server.targets(t, "https://127.0.0.1:8443")
	worker := children(t, server.Process.Pid)[0]
	load := func() time.Duration {
		before := cpu(t, worker)
		h := exec.Command("h2load", "--h1", "-n", strconv.Itoa(benchCalls), "-c", "16", "-i", uris)
		h.Env = append(os.Environ(), "LD_LIBRARY_PATH="+privateLibraries(t)) // its own libssl: only nginx pays for probes
		if out, err := h.CombinedOutput(); err != nil {
			t.Fatalf("h2load: %v: %s", err, out)
		}
		return (cpu(t, worker) - before) / benchCalls
	}
	load() // warm up
	rows := map[string][]time.Duration{}
	ratios := map[string][]float64{}
	var agentCPU []time.Duration
	for range benchRounds {
		alone := load()
		floor := withEmptyProbes(t, load)
		spile, agent := withSpile(t, load)
		rows["alone"] = append(rows["alone"], alone)
		rows["empty probes"] = append(rows["empty probes"], floor)
		rows["spile"] = append(rows["spile"], spile)
		ratios["empty probes"] = append(ratios["empty probes"], float64(floor)/float64(alone))
		ratios["spile"] = append(ratios["spile"], float64(spile)/float64(alone))
		agentCPU = append(agentCPU, agent)
	}
	fmt.Printf("\nnginx HTTPS/1.1 keep-alive, %d calls a round over 16 connections, %d rounds, medians\n", benchCalls, benchRounds)
	for _, arm := range []string{"alone", "empty probes", "spile"} {
		fmt.Printf("  %-14s %8s CPU/request", arm, median(rows[arm]).Round(100*time.Nanosecond))
		if r := ratios[arm]; r != nil {
			fmt.Printf("   %.2fx alone", median(r))
		}
		fmt.Println()
	}
	fmt.Printf("  %-14s %8s CPU/call\n", "spile-agent", median(agentCPU).Round(100*time.Nanosecond))
	goBench(t, "../collector/owner", "BenchmarkTake", "collector: decode, route, inventory, rules")
	goBench(t, "../collector", "BenchmarkCollector", "collector: from mTLS to the committed inventory, client and server in one process")
	goBench(t, "../proto/columns", "Benchmark", "wire: batches of 100, 1,000 and 5,000 calls")
}

func median[T ~int64 | ~float64](v []T) T {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// cpu is the time that a process's threads have run, from the scheduler (Documentation/scheduler/sched-stats.rst).
func cpu(t testing.TB, pid int) time.Duration {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	must(t, err)
	var sum time.Duration
	for _, f := range threads {
		data, err := os.ReadFile(f)
		must(t, err)
		ns, err := strconv.ParseInt(strings.Fields(string(data))[0], 10, 64)
		must(t, err)
		sum += time.Duration(ns)
	}
	return sum
}

// privateLibraries copies libssl and libcrypto, so that a client that uses them is on other inodes than the server.
func privateLibraries(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"libssl.so.3", "libcrypto.so.3"} {
		data, err := os.ReadFile(systemLibrary(t, name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o755))
	}
	return dir
}

func systemLibrary(t testing.TB, name string) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/" + name)
	must(t, err)
	if len(found) == 0 {
		t.Fatalf("no %s below /usr/lib", name)
	}
	return found[0]
}

// withEmptyProbes runs the load with programs that do nothing where Spile's would be.
func withEmptyProbes(t testing.TB, load func() time.Duration) time.Duration {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Kprobe, AttachType: ebpf.AttachTraceUprobeMulti, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	must(t, err)
	defer program.Close()
	exe, err := link.OpenExecutable(systemLibrary(t, "libssl.so.3"))
	must(t, err)
	symbols := []string{"SSL_read", "SSL_write"}
	for _, attach := range []func([]string, *ebpf.Program, *link.UprobeMultiOptions) (link.Link, error){exe.UprobeMulti, exe.UretprobeMulti} {
		l, err := attach(symbols, program, nil)
		must(t, err)
		defer l.Close()
	}
	return load()
}

// withSpile runs the load under the product, and returns also the agent's own CPU per call.
func withSpile(t testing.TB, load func() time.Duration) (server, agent time.Duration) {
	t.Helper()
	p := up(t)
	pid := p.agentPID()
	before := cpu(t, pid)
	server = load()
	if got := p.settled(benchCalls); got != benchCalls {
		t.Errorf("%d of %d calls seen", got, benchCalls)
	}
	agent = (cpu(t, pid) - before) / benchCalls
	if code := p.stop(t, 15*time.Second); code != 0 {
		t.Errorf("spile up ended with %d:\n%s", code, p.log)
	}
	return server, agent
}

var benchLine = regexp.MustCompile(`(?m)^Benchmark\S.*$`)

// goBench runs a room's own benchmarks and prints their lines.
func goBench(t testing.TB, dir, pattern, title string) {
	t.Helper()
	out, err := exec.Command("go", "test", "-run", "^$", "-bench", pattern, "-cpu", "1", dir).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", dir, err, out)
	}
	fmt.Printf("%s\n", title)
	for _, line := range benchLine.FindAllString(string(out), -1) {
		fmt.Println("  " + line)
	}
}
