package deploy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// occupied is what a process occupies, in bytes.
type occupied struct {
	resident     int64 // VmRSS: what is mapped and present, shared pages in full
	proportional int64 // Pss: shared pages by share
	anonymous    int64 // RssAnon: the heap and stacks
}

func occupiedBy(t testing.TB, pid int) (m occupied) {
	t.Helper()
	for file, lines := range map[string]map[string]*int64{
		"status":       {"VmRSS:": &m.resident, "RssAnon:": &m.anonymous},
		"smaps_rollup": {"Pss:": &m.proportional},
	} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		must(t, err)
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if to := lines[f[0]]; to != nil {
				if _, err := fmt.Sscan(f[1], to); err != nil {
					t.Fatalf("%s: %q", file, line)
				}
				*to <<= 10 // the kernel says kB
			}
		}
	}
	if m.resident == 0 || m.proportional == 0 || m.anonymous == 0 {
		t.Fatalf("no memory of process %d: %+v", pid, m)
	}
	return m
}

func (m occupied) String() string {
	return fmt.Sprintf("%.1f MB resident, %.1f MB proportional, %.1f MB anonymous", mb(m.resident), mb(m.proportional), mb(m.anonymous))
}

func mb(bytes int64) float64 { return float64(bytes) / 1e6 }

const (
	crowdSize  = 1000
	crowdCalls = 10 // each
)

// measureCrowd has 1,000 connections open, each with a few calls behind it, and reads the agent's memory: the most of
// what it shows in the next seconds.
func (b *bench) measureCrowd() {
	b.t.Helper()
	t := stoppable(b.t)
	defer t.stop()
	startBenchNginx(t, b.dir, b.libraries)
	eventually(b.t, 10*time.Second, "nginx listens", func() bool { return dials(address(benchPort)) })
	p := b.watch(stageFull, b.learned["nginx"])
	for i := range crowdSize {
		c, err := tls.Dial("tcp", address(benchPort), &tls.Config{InsecureSkipVerify: true})
		must(b.t, err)
		defer c.Close()
		r := bufio.NewReader(c)
		for range crowdCalls {
			size := []int{smallPage, largePage}[i%2]
			_, err := fmt.Fprintf(c, "GET /pages/%d HTTP/1.1\r\nHost: pages\r\n\r\n", size)
			must(b.t, err)
			response, err := http.ReadResponse(r, nil)
			must(b.t, err)
			if n, err := io.Copy(io.Discard, response.Body); err != nil || n != int64(size) {
				b.t.Fatalf("a page of %d bytes: %d, %v", size, n, err)
			}
		}
	}
	b.crowdSeen = p.settle(crowdSize*crowdCalls, func() {})
	for range 10 {
		if m := occupiedBy(b.t, p.agentPID()); m.resident > b.crowd.resident {
			b.crowd = m
		}
		time.Sleep(300 * time.Millisecond)
	}
	p.end()
}
