package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSoak runs load for TEST_SPILE_SOAK (a duration; 15 s without it) while the collector is killed again and again: every call is
// counted once, and the agent's memory and descriptors do not grow after the second round.
func TestSoak(t *testing.T) {
	needsRoot(t)
	length := 15 * time.Second // the slice that `make test` runs
	if long := os.Getenv("TEST_SPILE_SOAK"); long != "" {
		var err error
		length, err = time.ParseDuration(long)
		must(t, err)
	}
	server := startNginx(t)
	p := startPair(t)
	loads := [][]string{
		{"--h1", "-i", server.targets(t, "https://127.0.0.1:8443")},
		{"-m", "4", "-i", server.targets(t, "https://127.0.0.1:8443")},
		{"--h1", "-i", server.targets(t, "http://127.0.0.1:8080")},
		{"-m", "4", "-i", server.targets(t, "http://127.0.0.1:8081")},
	}
	const perRound = 5000
	var sent uint64
	var first footprint
	for round, end := 0, time.Now().Add(length); time.Now().Before(end); round++ {
		args := append([]string{"-n", strconv.Itoa(perRound), "-c", "8", "--rps", "250"}, loads[round%len(loads)]...)
		busy := start(t, "h2load", args...)
		time.Sleep(time.Duration(200+round*337%1500) * time.Millisecond)
		if round%3 == 0 {
			p.kill()
			p.startCollector()
		}
		<-busy.done
		sent += perRound
		got, lost := p.settled(sent), p.count("flow", "lost_server")
		now := footprintOf(t, p.agentProc.Process.Pid)
		t.Logf("round %d: sent %d, seen %d, lost %d; agent %d MiB, %d descriptors", round, sent, got, lost, now.rss>>20, now.files)
		if got+lost != sent {
			t.Fatalf("seen %d + lost %d != sent %d; agent:\n%s", got, lost, sent, p.agentProc.log)
		}
		if round == 1 { // the heap has its size; make test's slice still has rounds to compare
			first = now
		}
		if first.rss > 0 && (now.rss > first.rss*5/4 || now.files > first.files+8) {
			t.Errorf("the agent grows: %+v after the second round, %+v now", first, now)
		}
	}
}

// footprint is what a process holds.
type footprint struct {
	rss   int
	files int
}

func footprintOf(t testing.TB, pid int) footprint {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	must(t, err)
	return footprint{rss: kib << 10, files: len(files)}
}
