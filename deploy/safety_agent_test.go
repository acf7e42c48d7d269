package deploy

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// steady keeps eight connections busy.
func steady(t testing.TB, uris string, requests, perSecond int, args ...string) *process {
	t.Helper()
	return start(t, "h2load", append([]string{"-n", strconv.Itoa(requests), "-c", "8", "--rps", strconv.Itoa((perSecond + 7) / 8), "-i", uris}, args...)...)
}

// TestSafetyKilled kills agents under load, while they load, attach and watch. The clients notice nothing, the server's code is
// at once what its files hold, and its memory does not grow.
func TestSafetyKilled(t *testing.T) {
	needsRoot(t)
	const perSecond = 400
	requests := sized(8, 300) * perSecond
	server := startOwnNginx(t)
	worker := server.worker(t)
	p := startPair(t)
	load := steady(t, server.targets(t, "https://127.0.0.1:8443"), requests, perSecond, "--h1")
	random := rand.New(rand.NewPCG(4, 1))
	rounds, first := 0, 0
	for ; !ended(load); rounds++ {
		if rounds == 2 { // it was probed, and it was let go of
			first = resident(t, worker)
		}
		if rounds%2 == 0 {
			p.ready()
			probed(t, worker)
		} else {
			time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
		}
		programs, links := held(t, p.agentProc.Process.Pid)
		p.agentProc.kill()
		gone(t, programs, links)
		unprobed(t, worker)
		unprobed(t, server.Process.Pid)
		p.startAgent()
	}
	flawless(t, load, requests)
	last := resident(t, worker)
	t.Logf("%d agents were killed in %d requests; the server has %d KiB, after two agents it had %d", rounds, requests, last>>10, first>>10)
	if rounds < 3 {
		t.Errorf("only %d agents were killed: the load was too short", rounds)
	}
	if last > first && !alike(first, last, 5) {
		t.Errorf("the server grew from %d to %d KiB, more than 5 %%", first>>10, last>>10)
	}
	p.ready()
	before := p.total()
	output(t, "curl", "-sk", "-o", "/dev/null", "https://127.0.0.1:8443/health")
	eventually(t, 10*time.Second, "the last agent sees calls", func() bool { return p.total() > before })
}

func ended(p *process) bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// memoryGroup makes a cgroup whose memory can be limited; limit and kills work on version 1 and 2.
func memoryGroup(t testing.TB) (join string, limit func(bytes int) error, usage, kills func() int) {
	t.Helper()
	name := fmt.Sprintf("spile-test-%d", os.Getpid())
	number := func(file, field string) int {
		data, err := os.ReadFile(file)
		must(t, err)
		fields := strings.Fields(string(data))
		for i, f := range fields {
			if field == "" || i > 0 && fields[i-1] == field {
				n, err := strconv.Atoi(f)
				must(t, err)
				return n
			}
		}
		t.Fatalf("%s has no %q", file, field)
		return 0
	}
	for _, v := range []struct{ root, limit, usage, events string }{
		{"/sys/fs/cgroup", "memory.max", "memory.current", "memory.events"},
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control"},
	} {
		dir := filepath.Join(v.root, name)
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			eventually(t, 10*time.Second, "the memory cgroup is empty", func() bool { return syscall.Rmdir(dir) == nil })
		})
		if _, err := os.Stat(filepath.Join(dir, v.limit)); err != nil {
			continue
		}
		return filepath.Join(dir, "cgroup.procs"),
			func(bytes int) error {
				return os.WriteFile(filepath.Join(dir, v.limit), []byte(strconv.Itoa(bytes)), 0o644)
			},
			func() int { return number(filepath.Join(dir, v.usage), "") },
			func() int { return number(filepath.Join(dir, v.events), "oom_kill") }
	}
	t.Skip("no memory cgroup can be made here")
	return
}

// TestSafetyOutOfMemory lets the kernel kill the agent under load because its cgroup is full.
func TestSafetyOutOfMemory(t *testing.T) {
	needsRoot(t)
	const perSecond = 800
	requests := sized(8, 30) * perSecond
	join, limit, usage, kills := memoryGroup(t)
	server := startOwnNginx(t)
	worker := server.worker(t)
	p := startPair(t)
	p.agentProc.stop(t, 15*time.Second)
	p.startAgentIn(join)
	p.ready()
	probed(t, worker)
	agent := p.agentProc.Process.Pid
	programs, links := held(t, agent)
	load := steady(t, server.targets(t, "https://127.0.0.1:8443"), requests, perSecond, "--h1")
	eventually(t, 10*time.Second, "calls", func() bool { return p.total() > 200 })
	// Version 1 refuses a limit below what cannot be given back, so it comes down in steps until what the load needs is too much.
	for at := usage(); !ended(p.agentProc) && at > 0; at -= 64 << 10 {
		if limit(at) != nil {
			time.Sleep(20 * time.Millisecond)
		}
	}
	eventually(t, 20*time.Second, "the kernel kills the agent", func() bool { return ended(p.agentProc) })
	if status := p.agentProc.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGKILL || kills() == 0 {
		t.Fatalf("the agent ended with %v, %d were killed for memory", p.agentProc.ProcessState, kills())
	}
	gone(t, programs, links)
	unprobed(t, worker)
	flawless(t, load, requests)
}

// TestSafetyStopped stops the agent while its rings run over. The clients notice nothing, afterwards seen + lost is what was
// sent, and memory is what it was.
func TestSafetyStopped(t *testing.T) {
	needsRoot(t)
	const perSecond = 1000
	before, pause, after := sized(1, 20), sized(3, 60), sized(1, 20) // seconds
	requests := (before + pause + after) * perSecond
	server := startOwnNginx(t)
	worker := server.worker(t)
	p := startPair(t, "SPILE_RING_BYTES=1048576")
	loads := []*process{
		steady(t, server.targets(t, "https://127.0.0.1:8443"), requests, perSecond, "--h1"),
		steady(t, server.targets(t, "http://127.0.0.1:8081"), requests, perSecond, "-m", "4"),
	}
	sent := uint64(len(loads) * requests)
	eventually(t, 10*time.Second, "calls", func() bool { return p.total() > 200 })
	time.Sleep(time.Duration(before) * time.Second)
	agent := p.agentProc.Process.Pid
	first, firstServer := resident(t, agent), resident(t, worker)
	must(t, p.agentProc.Process.Signal(syscall.SIGSTOP))
	time.Sleep(time.Duration(pause) * time.Second)
	must(t, p.agentProc.Process.Signal(syscall.SIGCONT))
	for _, load := range loads {
		flawless(t, load, requests)
	}
	var seen, lost uint64
	eventually(t, 30*time.Second, "the account of the end", func() bool {
		seen, lost = p.total(), p.count("flow", "lost_server")
		return seen+lost >= sent
	})
	time.Sleep(healthEvery) // what would be counted twice would come late
	seen, lost = p.total(), p.count("flow", "lost_server")
	t.Logf("sent %d, seen %d, lost %d", sent, seen, lost)
	if seen+lost != sent {
		t.Errorf("seen %d + lost %d = %d, want %d", seen, lost, seen+lost, sent)
	}
	if lost == 0 {
		t.Errorf("nothing was lost in %d s: the ring was not small enough to show anything", pause)
	}
	last, lastServer := resident(t, agent), resident(t, worker)
	t.Logf("the agent: %d KiB before, %d after; the server: %d and %d", first>>10, last>>10, firstServer>>10, lastServer>>10)
	if percent := sized(25, 5); last > first && !alike(first, last, percent) || lastServer > firstServer && !alike(firstServer, lastServer, 5) {
		t.Errorf("the agent grew from %d to %d KiB or the server from %d to %d, more than %d and 5 %%", first>>10, last>>10, firstServer>>10, lastServer>>10, percent)
	}
	programs, links := held(t, agent)
	if code := p.agentProc.stop(t, 5*time.Second); code != 0 {
		t.Errorf("the agent ended with %d:\n%s", code, p.agentProc.log)
	}
	gone(t, programs, links)
	unprobed(t, worker)
}
