package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// maxAgentKiB is the resident memory that the agent may take on a node with 1,000 open TLS connections.
const maxAgentKiB = 40 << 10

// TestSafetyMemory has 1,000 clients hold TLS connections to nginx open and make calls on all of them, and asks the
// kernel what the agent takes meanwhile.
func TestSafetyMemory(t *testing.T) {
	needsRoot(t)
	if _, err := exec.LookPath("h2load"); err != nil {
		t.Skip("h2load is not installed")
	}
	const conns, perConn = 1000, 20
	server := startNginx(t)
	p := up(t, "--target", "netns=self", "--target", "!exe=*/h2load")
	agent := p.agentPID()
	idle := residentKiB(t, agent)
	// Each client makes three calls a second, so that all stay for some seconds.
	h := exec.Command("h2load", "--h1", "-t", "1", "-n", strconv.Itoa(conns*perConn), "-c", strconv.Itoa(conns), "--rps", "3",
		"-i", server.targets(t, "https://127.0.0.1:8443"))
	h.Env = append(os.Environ(), "LD_LIBRARY_PATH="+privateLibraries(t))
	load := begin(t, h)
	var most map[string]int
	open := 0
	for running := true; running; {
		select {
		case <-load.done:
			running = false
		case <-time.After(200 * time.Millisecond):
			now := residentKiB(t, agent)
			if n := established(t, 8443); n > open {
				open = n
			}
			if most == nil || now["VmRSS"] > most["VmRSS"] {
				most = now
			}
		}
	}
	seen, lost := p.settled(conns*perConn), p.count("flow", "lost_server")
	t.Logf("%d connections open at once, %d calls seen, %d lost; resident KiB: %v before, %v at most, %v after", open, seen, lost, idle, most, residentKiB(t, agent))
	if open < conns {
		t.Errorf("%d connections were open at once, want %d", open, conns)
	}
	if seen+lost != conns*perConn || lost > 0 {
		t.Errorf("%d calls seen and %d lost of %d", seen, lost, conns*perConn)
	}
	if most["VmRSS"] > maxAgentKiB {
		t.Errorf("the agent takes %d KiB, more than %d", most["VmRSS"], maxAgentKiB)
	}
}

var memoryLine = regexp.MustCompile(`(?m)^(VmHWM|VmRSS|RssAnon|RssFile|RssShmem):\s+(\d+) kB$`)

// residentKiB is what the kernel says of a process's memory.
func residentKiB(t testing.TB, pid int) map[string]int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	out := map[string]int{}
	for _, m := range memoryLine.FindAllStringSubmatch(string(data), -1) {
		out[m[1]], err = strconv.Atoi(m[2])
		must(t, err)
	}
	return out
}

// established counts the connections that a server on the loopback has accepted on a port.
func established(t testing.TB, port int) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/net/tcp")
	must(t, err)
	return len(regexp.MustCompile(fmt.Sprintf(`(?m)^ *\d+: [0-9A-F]{8}:%04X [0-9A-F]{8}:[0-9A-F]{4} 01 `, port)).FindAll(data, -1))
}
