package deploy

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const shortClient = `
import socket, ssl
c = ssl._create_unverified_context().wrap_socket(socket.create_connection(("127.0.0.1", 8443)))
c.sendall(b"GET /health HTTP/1.0\r\nHost: shop.example\r\n\r\n")
while c.recv(4096): pass
`

// churn starts short programs that speak TLS, and kills seven of eight at a moment of their life. The others must get along.
type churn struct {
	started, killed, served atomic.Uint64
	running                 sync.WaitGroup
	mu                      sync.Mutex
	faults                  []string
}

// run starts programs at a rate until end comes, and waits for the last.
func (c *churn) run(perSecond int, end time.Time) {
	random := rand.New(rand.NewPCG(50, 60))
	next := time.Now()
	slots := make(chan struct{}, 64) // a machine that falls behind has that many at most
	for time.Now().Before(end) {
		kind, doomed, moment := random.IntN(10), random.IntN(8) > 0, time.Duration(random.IntN(18_000))*time.Microsecond
		slots <- struct{}{}
		c.running.Go(func() {
			defer func() { <-slots }()
			c.one(kind, doomed, moment)
		})
		next = next.Add(time.Second / time.Duration(perSecond))
		time.Sleep(time.Until(next))
	}
	c.running.Wait()
}

func (c *churn) one(kind int, doomed bool, moment time.Duration) {
	var cmd *exec.Cmd
	switch {
	case kind < 6:
		cmd = exec.Command("curl", "-sSk", "-m", "10", "-o", "/dev/null", "https://127.0.0.1:8443/health")
	case kind < 9:
		cmd = exec.Command("sh", "-c", `printf 'GET /health HTTP/1.0\r\nHost: shop.example\r\n\r\n' | exec openssl s_client -connect 127.0.0.1:8443 -quiet`)
	default:
		cmd = exec.Command("/usr/bin/python3", "-c", shortClient)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Start()
	if err == nil {
		c.started.Add(1)
		if doomed {
			time.AfterFunc(moment, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		}
		err = cmd.Wait()
		if status := cmd.ProcessState.Sys().(syscall.WaitStatus); doomed && status.Signaled() && status.Signal() == syscall.SIGKILL {
			c.killed.Add(1)
			return
		}
	}
	if err == nil {
		c.served.Add(1)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, fmt.Sprintf("%s: %v: %s", cmd.Path, err, &said))
}

// TestSafetyChurn starts and kills programs that speak TLS while a steady one works beside them: neither it nor a program that
// is let live notices anything, neither the agent nor its maps grow, and everything comes out at the end.
func TestSafetyChurn(t *testing.T) {
	needsRoot(t)
	const perSecond, steadyPerSecond = 84, 100
	length, settle := sized(10*time.Second, 60*time.Second), sized(5*time.Second, 15*time.Second)
	requests := int(length/time.Second) * steadyPerSecond
	server := startOwnNginx(t)
	worker := server.worker(t)
	p := startPair(t)
	agent := p.agentProc.Process.Pid
	probed(t, worker)
	load := steady(t, server.targets(t, "https://127.0.0.1:8443"), requests, steadyPerSecond, "--h1")
	var c churn
	began := time.Now()
	done := make(chan struct{})
	go func() { defer close(done); c.run(perSecond, began.Add(length)) }()
	time.Sleep(settle)
	first, files, full := resident(t, agent), len(p.agent().Health.Probes), entries(t, agent)
	<-done
	last, elapsed := resident(t, agent), time.Since(began)
	flawless(t, load, requests)
	started, killed := float64(c.started.Load())/elapsed.Seconds(), float64(c.killed.Load())/elapsed.Seconds()
	t.Logf("%d programs in %v (%.0f/s), %d of them killed (%.0f/s), %d served; agent %d KiB at %v, %d KiB at the end", c.started.Load(), elapsed.Round(time.Millisecond), started, c.killed.Load(), killed, c.served.Load(), first>>10, settle, last>>10)
	if least := sized(15.0, 50.0); started < least || killed < least { // the slice may find the machine busy
		t.Errorf("only %.0f programs a second were started and %.0f killed, want %.0f", started, killed, least)
	}
	if len(c.faults) > 0 || c.served.Load() == 0 {
		t.Errorf("%d programs were served, %d failed; the first: %s", c.served.Load(), len(c.faults), c.faults[:min(1, len(c.faults))])
	}
	if percent := sized(25, 5); last > first && !alike(first, last, percent) {
		t.Errorf("the agent grew from %d to %d KiB, more than %d %%", first>>10, last>>10, percent)
	}
	var now map[string]int
	eventually(t, 15*time.Second, "the maps are as empty as they were", func() bool {
		now = entries(t, agent)
		for name, n := range now {
			// What runs at either moment differs by some connections and threads of 64 programs; a leak has thousands.
			if n > full[name]+200 {
				return false
			}
		}
		return true
	})
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if n := now[name]; n > 0 || full[name] > 0 {
			t.Logf("map %s: %d entries at %v, %d at the end", name, full[name], settle, n)
		}
	}
	if n := len(p.agent().Health.Probes); n > files+4 { // a library asked for later; a leak has one for each program
		t.Errorf("%d files were probed at %v, %d at the end", files, settle, n)
	}
	programs, links := held(t, agent)
	if code := p.agentProc.stop(t, 5*time.Second); code != 0 {
		t.Errorf("the agent ended with %d:\n%s", code, p.agentProc.log)
	}
	gone(t, programs, links)
	unprobed(t, worker)
}
