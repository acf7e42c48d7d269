package deploy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	hotEnv   = "TEST_SPILE_HOT"
	hotBatch = 32 // requests in one write
	hotConns = 4
)

// The frames of HTTP/2 that the neighbour speaks (RFC 9113, section 4.1): every request is one HEADERS frame, and so is every
// response. A stream's number goes into bytes 5 to 8.
var (
	hotPreface  = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	hotSettings = []byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	hotRequest  = []byte("\x00\x00\x10\x01\x05\x00\x00\x00\x00\x82\x86\x84\x01\x0bhot.example") // GET http /
	hotResponse = []byte("\x00\x00\x01\x01\x05\x00\x00\x00\x00\x88")                            // 200
)

// hotFrames numbers the frames of a batch.
func hotFrames(batch []byte, frame int, stream uint32) {
	for at := 0; at < len(batch); at, stream = at+frame, stream+2 {
		binary.BigEndian.PutUint32(batch[at+5:], stream)
	}
}

func hotServer(c net.Conn) error {
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, len(hotPreface))); err != nil {
		return err
	}
	if _, err := c.Write(hotSettings); err != nil {
		return err
	}
	ask, reply := make([]byte, hotBatch*len(hotRequest)), bytes.Repeat(hotResponse, hotBatch)
	for {
		if _, err := io.ReadFull(c, ask); err != nil {
			return err
		}
		hotFrames(reply, len(hotResponse), binary.BigEndian.Uint32(ask[5:]))
		if _, err := c.Write(reply); err != nil {
			return err
		}
	}
}

func hotClient(c net.Conn, end time.Time) (calls uint64, err error) {
	defer c.Close()
	if _, err := c.Write(hotPreface); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(c, make([]byte, len(hotSettings))); err != nil {
		return 0, err
	}
	ask, reply := bytes.Repeat(hotRequest, hotBatch), make([]byte, hotBatch*len(hotResponse))
	for stream := uint32(1); time.Now().Before(end); stream += 2 * hotBatch {
		hotFrames(ask, len(hotRequest), stream)
		if _, err := c.Write(ask); err != nil {
			return calls, err
		}
		if _, err := io.ReadFull(c, reply); err != nil {
			return calls, err
		}
		calls += hotBatch
	}
	return calls, nil
}

// TestSafetyHot is not a test by itself: it is the neighbour of TestSafetyNeighbour, a server and its clients in one process,
// as fast as they can, for as long as they are told. It says how many calls there were.
func TestSafetyHot(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv(hotEnv))
	if err != nil {
		t.Skip("run by TestSafetyNeighbour")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var calls atomic.Uint64
	var all sync.WaitGroup
	began := time.Now()
	for range hotConns {
		client, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		server, err := l.Accept()
		must(t, err)
		go hotServer(server)
		all.Go(func() {
			n, err := hotClient(client, began.Add(length))
			calls.Add(n)
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	fmt.Fprintf(os.Stdout, "hot %d %d\n", calls.Load(), time.Since(began).Microseconds())
}

// cgroupOf makes a cgroup of version 2, in which processes are told apart, and returns what starts a program in it.
func cgroupOf(t testing.TB, name string) (path string, enter func(name string, args ...string) *exec.Cmd) {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
			continue
		}
		dir := filepath.Join(root, fmt.Sprintf("spile-test-%d-%s", os.Getpid(), name))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			eventually(t, 10*time.Second, "the cgroup "+name+" is empty", func() bool { return syscall.Rmdir(dir) == nil })
		})
		return dir[len(root):], func(name string, args ...string) *exec.Cmd {
			return exec.Command("/bin/sh", append([]string{"-c", `echo $$ > "$0" && exec "$@"`, filepath.Join(dir, "cgroup.procs"), name}, args...)...)
		}
	}
	t.Skip("no cgroup of version 2 can be made here")
	return "", nil
}

// TestSafetyNeighbour runs a process at the highest rate it can reach beside a quiet one in another cgroup: the quiet one loses
// less than 1 % of its calls, and what is lost is counted, to the call and by cgroup.
func TestSafetyNeighbour(t *testing.T) {
	needsRoot(t)
	const perSecond = 200
	length := sized(5, 30)
	requests := (length + 2) * perSecond
	quiet, inQuiet := cgroupOf(t, "quiet")
	hot, inHot := cgroupOf(t, "hot")
	server := prepareNginx(t)
	server.process = begin(t, inQuiet("nginx", "-p", server.dir, "-c", filepath.Join(server.dir, "nginx.conf")))
	eventually(t, 10*time.Second, "nginx listens", func() bool { return dials("127.0.0.1:8080") })
	// Without a governor, which would slow the neighbour down by itself.
	p := startPair(t, "SPILE_CPU_BUDGET=0", "SPILE_PROBE_BUDGET=0", "SPILE_LIBRARY_BUDGET=0")
	load := begin(t, inQuiet("h2load", "--h1", "-n", strconv.Itoa(requests), "-c", "4", "--rps", strconv.Itoa(perSecond/4), "https://127.0.0.1:8443/health"))
	time.Sleep(time.Second)
	program, err := os.Readlink("/proc/self/exe")
	must(t, err)
	neighbour := inHot(program, "-test.run=^TestSafetyHot$")
	neighbour.Env = append(os.Environ(), fmt.Sprintf("%s=%ds", hotEnv, length))
	busy := begin(t, neighbour)
	<-busy.done
	flawless(t, load, requests)
	calls, rate := hotCalls(t, busy.log.String())
	sent := calls + uint64(requests)

	var seen, lost uint64
	for end := time.Now().Add(time.Minute); seen+lost < sent && time.Now().Before(end); time.Sleep(time.Second) {
		seen, lost = p.total(), p.count("flow", "lost_server")
	}
	time.Sleep(healthEvery) // what would be counted twice would come late
	seen, lost = p.total(), p.count("flow", "lost_server")
	of := map[string]uint64{}
	for _, e := range p.endpoints() {
		of[e.Service] += e.Calls
	}
	t.Logf("the neighbour: %d calls at %.0f/s, %d of them seen; the quiet one: %d calls at %d/s, %d of them seen; lost %d", calls, rate, of["hot.example"], requests, perSecond, of["127.0.0.1"], lost)
	if seen+lost != sent {
		t.Errorf("seen %d + lost %d = %d, want %d", seen, lost, seen+lost, sent)
	}
	// The slice shares two cores with other packages' tests: there it must only fare far better than its neighbour.
	if least := uint64(requests) * uint64(99) / 100; of["127.0.0.1"] < least {
		t.Errorf("the quiet one's calls: %d seen of %d, want %d", of["127.0.0.1"], requests, least)
	}
	if of["hot.example"] == calls {
		t.Error("the neighbour lost nothing: it was not fast enough to show anything")
	}
	p.checkLosses(t, hot, quiet, calls-of["hot.example"])
}

// checkLosses says that the losses of all cgroups are the kernel's counters, that the hot one lost at least one head of each
// lost call and at most all four, and the quiet one next to nothing.
func (p *pair) checkLosses(t *testing.T, hot, quiet string, hotLost uint64) {
	t.Helper()
	sums, heads := map[string]uint64{}, map[string]uint64{}
	for _, l := range p.agent().Health.CgroupLosses {
		t.Logf("%s lost %d heads, %d bytes in %d reads and writes: %s", l.Cgroup, l.Heads, l.Bytes, l.Calls, l.Reason)
		sums[l.Reason+"_heads"] += l.Heads
		sums[l.Reason+"_bytes"] += l.Bytes
		heads[l.Cgroup] += l.Heads
	}
	for name, sum := range sums {
		if n := p.count("kernel", name); n != sum {
			t.Errorf("the kernel counts %d %s, its cgroups %d", n, name, sum)
		}
	}
	if n := heads[hot]; n < hotLost || n > 4*hotLost {
		t.Errorf("%s lost %d heads of %d lost calls", hot, n, hotLost)
	}
	if n := heads[quiet]; n > heads[hot]/100 {
		t.Errorf("%s lost %d heads, %s %d", quiet, n, hot, heads[hot])
	}
}

func hotCalls(t testing.TB, said string) (calls uint64, perSecond float64) {
	t.Helper()
	for lines := bufio.NewScanner(strings.NewReader(said)); lines.Scan(); {
		var us float64
		if _, err := fmt.Sscanf(lines.Text(), "hot %d %g", &calls, &us); err == nil {
			return calls, float64(calls) / us * 1e6
		}
	}
	t.Fatalf("the neighbour said:\n%s", said)
	return 0, 0
}
