package probe

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf/link"
)

const holdEnv = "SPILE_TEST_HOLD"

// TestHolder is not a test by itself: it is the agent that TestKilledAgentLeavesNothing kills.
func TestHolder(t *testing.T) {
	path := os.Getenv(holdEnv)
	if path == "" {
		t.Skip("run by TestKilledAgentLeavesNothing")
	}
	r := registry(t, newCounting(t, true), DefaultTimes())
	c := newCaller(t, path)
	if !r.Use(c.process(), described(t, path)) {
		t.Fatalf("%+v", r.List())
	}
	os.Stdout.WriteString("attached\n")
	select {}
}

// linksOn counts the links of any process that sit on a file.
func linksOn(t *testing.T, path string) int {
	t.Helper()
	n := 0
	all := new(link.Iterator)
	defer all.Close()
	for all.Next() {
		info, err := all.Link.Info()
		if err != nil {
			continue // gone meanwhile
		}
		if multi := info.UprobeMulti(); multi != nil && multi.File == path {
			n++
		}
	}
	if err := all.Err(); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Skipf("list links: %v", err)
	}
	return n
}

func TestKilledAgentLeavesNothing(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c := newCaller(t, path)
	agent := exec.Command("/proc/self/exe", "-test.run=^TestHolder$", "-test.v")
	agent.Env = append(os.Environ(), holdEnv+"="+path)
	agent.Stderr = os.Stderr
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Process.Kill(); agent.Wait() })
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "attached") {
	}
	if linksOn(t, path) == 0 {
		t.Fatalf("the other agent did not attach: %q", lines.Text())
	}
	// While the old one still runs, the new one sees each call once.
	r := registry(t, programs, DefaultTimes())
	r.Use(c.process(), described(t, path))
	own := linksOn(t, path)
	c.call(t, 10)
	if n := programs.hits(t, freed); n != 10 {
		t.Errorf("%d hits of 10 calls beside another agent", n)
	}
	agent.Process.Kill()
	agent.Wait()
	eventually(t, "the kernel to clean up", func() bool { return linksOn(t, path) == own/2 })
	c.call(t, 10)
	if n := programs.hits(t, freed); n != 20 {
		t.Errorf("%d hits of 20 calls after the other agent was killed", n)
	}
}
