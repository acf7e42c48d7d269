package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSmokeOverload starves the agent on purpose, with a small ring and stops in the middle of each load: calls are lost,
// and seen + lost is what was sent, to the call.
func TestSmokeOverload(t *testing.T) {
	needsRoot(t)
	const calls = 4000
	server := startNginx(t)
	p := startPair(t, "SPILE_RING_BYTES=262144")
	var sent, before uint64
	for _, c := range []struct {
		name, base string
		args       []string
	}{
		{"https-h1", "https://127.0.0.1:8443", []string{"--h1"}},
		{"http-h1", "http://127.0.0.1:8080", []string{"--h1"}},
		{"https-h2", "https://127.0.0.1:8443", []string{"-m", "4"}},
		{"http-h2c", "http://127.0.0.1:8081", []string{"-m", "4"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sent += calls
			load := start(t, "h2load", append([]string{"-n", fmt.Sprint(calls), "-c", "8", "--rps", "250", "-i", server.targets(t, c.base)}, c.args...)...)
			for range 4 {
				time.Sleep(200 * time.Millisecond)
				must(t, p.agentProc.Process.Signal(syscall.SIGSTOP))
				time.Sleep(250 * time.Millisecond)
				must(t, p.agentProc.Process.Signal(syscall.SIGCONT))
			}
			<-load.done
			if !strings.Contains(load.log.String(), fmt.Sprintf("%d done", calls)) {
				t.Fatalf("h2load:\n%s", load.log)
			}
			var seen, lost uint64
			eventually(t, 3*healthEvery, "the account of the end", func() bool {
				seen, lost = p.total(), p.count("flow", "lost_server")
				return seen+lost >= sent
			})
			if seen+lost != sent {
				t.Errorf("seen %d + lost %d = %d, want %d", seen, lost, seen+lost, sent)
			}
			if lost == before {
				t.Errorf("nothing was lost: the ring was not small enough to show anything")
			}
			t.Logf("sent %d, seen %d, lost %d, %d of them now", sent, seen, lost, lost-before)
			before = lost
		})
	}
	time.Sleep(healthEvery) // what would be counted twice would come late
	if seen, lost := p.total(), p.count("flow", "lost_server"); seen+lost != sent {
		t.Errorf("at the end seen %d + lost %d = %d, want %d", seen, lost, seen+lost, sent)
	}
}

func (p *pair) startAgent(env ...string) { p.startAgentIn("", env...) }

// startAgentIn starts the agent as a member of what the file join stands for ("" = as the test is).
func (p *pair) startAgentIn(join string, env ...string) {
	// A collector that is not the agent's parent is a program like any other: its own API would show.
	args := []string{p.bin.agent, "--collector", "127.0.0.1:7741", "--data", filepath.Join(p.dir, "agent"), "--target", "netns=self", "--target", "!port=7741"}
	if join != "" {
		args = append([]string{"/bin/sh", "-c", `echo $$ > "$0" && exec "$@"`, join}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "SPILE_NODE=n1", "SPILE_CA="+p.dir+"/ca.crt", "SPILE_CERT="+p.dir+"/agent.crt", "SPILE_KEY="+p.dir+"/agent.key")
	cmd.Env = append(cmd.Env, env...)
	p.from = time.Now()
	p.agentProc = begin(p.t, cmd)
}
