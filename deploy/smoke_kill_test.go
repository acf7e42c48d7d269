package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// children lists the processes whose parent is pid.
func children(t testing.TB, pid int) []int {
	t.Helper()
	var kids []int
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must(t, err)
	for _, f := range stats {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // it ended meanwhile
		}
		rest := string(data[strings.LastIndexByte(string(data), ')')+2:])
		if fields := strings.Fields(rest); fields[1] == strconv.Itoa(pid) {
			kid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			kids = append(kids, kid)
		}
	}
	return kids
}

// held lists the eBPF programs and links that a process holds, by id.
func held(t testing.TB, pid int) (programs []ebpf.ProgramID, links []link.ID) {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	must(t, err)
	for _, f := range infos {
		data, _ := os.ReadFile(f)
		for line := range strings.Lines(string(data)) {
			name, value, _ := strings.Cut(line, ":")
			id, _ := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			switch name {
			case "prog_id":
				programs = append(programs, ebpf.ProgramID(id))
			case "link_id":
				links = append(links, link.ID(id))
			}
		}
	}
	return programs, links
}

// gone waits until the kernel knows none of them any more.
func gone(t testing.TB, programs []ebpf.ProgramID, links []link.ID) {
	t.Helper()
	eventually(t, 15*time.Second, "every program and link of the agent is gone", func() bool {
		for _, id := range programs {
			if p, err := ebpf.NewProgramFromID(id); err == nil {
				p.Close()
				return false
			}
		}
		for _, id := range links {
			if l, err := link.NewFromID(id); err == nil {
				l.Close()
				return false
			}
		}
		return true
	})
}

func (p *product) agentPID() int {
	p.t.Helper()
	kids := children(p.t, p.Process.Pid)
	if len(kids) != 1 {
		p.t.Fatalf("spile up has the children %v, want one agent", kids)
	}
	return kids[0]
}

// TestSmokeNothingStays ends the product in each way there is: nothing stays attached, no process is left behind.
func TestSmokeNothingStays(t *testing.T) {
	needsRoot(t)
	for _, how := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(how.String(), func(t *testing.T) {
			p := up(t)
			agent := p.agentPID()
			programs, links := held(t, agent)
			if len(programs) == 0 || len(links) == 0 {
				t.Fatalf("the agent holds %d programs and %d links: nothing to see", len(programs), len(links))
			}
			must(t, p.Process.Signal(how))
			<-p.done
			if code := p.ProcessState.ExitCode(); how != syscall.SIGKILL && code != 0 {
				t.Errorf("exit status %d:\n%s", code, p.log)
			}
			eventually(t, 10*time.Second, "the agent ended", func() bool { return syscall.Kill(agent, 0) == syscall.ESRCH })
			gone(t, programs, links)
		})
	}
}

// TestSmokeAgentKilled kills the agent under load: the target's clients notice nothing, what was attached is gone, and
// `up` brings a new agent that sees the rest.
func TestSmokeAgentKilled(t *testing.T) {
	needsRoot(t)
	server := startNginx(t)
	p := up(t)
	load := start(t, "h2load", "--h1", "-n", "6000", "-c", "8", "--rps", "250", "-i", server.targets(t, "https://127.0.0.1:8443"))
	eventually(t, 10*time.Second, "calls", func() bool { return p.total() > 200 })
	agent := p.agentPID()
	programs, links := held(t, agent)
	p.from = time.Now()
	must(t, syscall.Kill(agent, syscall.SIGKILL))
	gone(t, programs, links)
	p.ready()
	<-load.done
	if !strings.Contains(load.log.String(), "6000 done, 5008 succeeded, 992 failed, 0 errored, 0 timeout") { // failed are the 403 and 500 that nginx is asked for
		t.Errorf("the load was disturbed:\n%s", load.log)
	}
	before := p.total()
	output(t, "h2load", "--h1", "-n", "500", "-c", "2", "-i", server.targets(t, "https://127.0.0.1:8443"))
	p.settled(before + 500)
	if got := p.total(); got < before+500 {
		t.Errorf("after its restart the agent saw %d of 500 calls", got-before)
	}
}

// pair is a collector and an agent as two programs, as on two hosts.
type pair struct {
	*product
	agentProc *process
	dir       string
}

func (p *pair) startCollector() {
	p.process = begin(p.t, exec.Command(p.bin.spile, "collector", "--data", p.data))
	eventually(p.t, 30*time.Second, "the collector answers", func() bool {
		return exec.Command(p.bin.spile, "status", "--data", p.data).Run() == nil
	})
}

func startPair(t testing.TB, env ...string) *pair {
	t.Helper()
	p := &pair{product: &product{t: t, bin: binaries(t), data: t.TempDir()}, dir: t.TempDir()}
	p.startCollector()
	output(t, p.bin.spile, "agents", "enroll", "n1", "--out", p.dir, "--data", p.data)
	p.startAgent(env...)
	p.ready()
	return p
}

// TestSmokeCollectorDown takes the collector away for a while and kills it while it receives: what the agent saw in the
// meantime is spooled, nothing is lost and nothing counted twice. Then the agent restarts: its new epoch is no duplicate.
func TestSmokeCollectorDown(t *testing.T) {
	needsRoot(t)
	server := startNginx(t)
	p := startPair(t)
	uris := server.targets(t, "https://127.0.0.1:8443")
	sent := uint64(0)
	load := func(n int) {
		output(t, "h2load", "--h1", "-n", strconv.Itoa(n), "-c", "8", "-i", uris)
		sent += uint64(n)
	}
	load(1000)
	if got := p.settled(sent); got != sent {
		t.Fatalf("%d of %d calls before anything happened; agent:\n%s", got, sent, p.agentProc.log)
	}
	p.kill()
	load(3000)
	time.Sleep(12 * time.Second) // the agent, which tries again after 5 s at most, has done so a few times
	p.startCollector()
	if got := p.settled(sent); got != sent {
		t.Fatalf("%d of %d calls after the collector was away; agent:\n%s", got, sent, p.agentProc.log)
	}
	for range 3 {
		busy := start(t, "h2load", "--h1", "-n", "3000", "-c", "8", "-i", uris)
		time.Sleep(400 * time.Millisecond)
		p.kill()
		p.startCollector()
		<-busy.done
		sent += 3000
	}
	if got := p.settled(sent); got != sent {
		t.Errorf("%d of %d calls after the collector was killed while it received; agent:\n%s", got, sent, p.agentProc.log)
	}
	if code := p.agentProc.stop(t, 15*time.Second); code != 0 {
		t.Errorf("the agent ended with %d:\n%s", code, p.agentProc.log)
	}
	p.startAgent()
	p.ready()
	time.Sleep(time.Second)
	load(1000)
	if got := p.settled(sent); got != sent {
		t.Errorf("%d of %d calls after the agent restarted; agent:\n%s", got, sent, p.agentProc.log)
	}
	compare(t, server.oracle(t), p.endpoints())
}
