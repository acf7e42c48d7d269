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

// TestSafetyHot is not a test by itself: it is the neighbour of TestSafetyNeighbour, a server that says where it listens, or its
// clients, as fast as they can for as long as they are told. They say how many calls there were.
func TestSafetyHot(t *testing.T) {
	var length time.Duration
	address := ""
	switch how := os.Getenv(hotEnv); how {
	case "":
		t.Skip("run by TestSafetyNeighbour")
	case "serve":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		fmt.Println("listens on", l.Addr())
		for {
			c, err := l.Accept()
			must(t, err)
			go hotServer(c)
		}
	default:
		var long string
		_, err := fmt.Sscan(how, &address, &long)
		must(t, err)
		length, err = time.ParseDuration(long)
		must(t, err)
	}
	var calls atomic.Uint64
	var all sync.WaitGroup
	began := time.Now()
	for range hotConns {
		c, err := net.Dial("tcp", address)
		must(t, err)
		all.Go(func() {
			n, err := hotClient(c, began.Add(length))
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

// TestSafetyNeighbour runs a server at 500,000 calls a second or more beside a quiet one in another cgroup: the quiet one loses
// less than 1 % of its calls, and of both what is seen and what is lost is what was sent, to the call.
func TestSafetyNeighbour(t *testing.T) {
	needsRoot(t)
	const perSecond, hotPerSecond = 200, 500_000
	length := sized(5*time.Second, 30*time.Second)
	requests := int(length/time.Second+2) * perSecond
	quiet, inQuiet := cgroupOf(t, "quiet")
	hot, inHot := cgroupOf(t, "hot")
	server := prepareNginx(t)
	server.process = begin(t, inQuiet("nginx", "-p", server.dir, "-c", filepath.Join(server.dir, "nginx.conf")))
	eventually(t, 10*time.Second, "nginx listens", func() bool { return dials("127.0.0.1:8080") })
	program, err := os.Readlink("/proc/self/exe")
	must(t, err)
	neighbour := func(how string) *process {
		cmd := inHot(program, "-test.run=^TestSafetyHot$")
		cmd.Env = append(os.Environ(), hotEnv+"="+how)
		return begin(t, cmd)
	}
	hotServer := neighbour("serve")
	var address string
	eventually(t, 10*time.Second, "the neighbour listens", func() bool {
		_, err := fmt.Sscanf(hotServer.log.String(), "listens on %s\n", &address)
		return err == nil
	})
	// Held at its first stage: the governor would slow the neighbour down by itself.
	p := startPair(t, "SPILE_GOVERNOR_STAGE=full", "SPILE_LIBRARY_BUDGET=0")
	load := begin(t, inQuiet("h2load", "--h1", "-n", strconv.Itoa(requests), "-c", "4", "--rps", strconv.Itoa(perSecond/4), "https://127.0.0.1:8443/health"))
	time.Sleep(time.Second)
	clients := neighbour(fmt.Sprint(address, " ", length))
	<-clients.done
	flawless(t, load, requests)
	calls, rate := hotCalls(t, clients.log.String())
	// A slice of it shares two processors with whatever else is tested.
	if want := sized(hotPerSecond/4, hotPerSecond); rate < float64(want) {
		t.Errorf("the neighbour made %.0f calls a second, want %d: the machine is too busy to show anything", rate, want)
	}

	// By process: one of each cgroup is a server.
	ends := func() (q, h coverageLine) { return p.callsOf(server.worker(t)), p.callsOf(hotServer.Process.Pid) }
	var q, h coverageLine
	for end := time.Now().Add(time.Minute); q.Calls+q.LostCalls < uint64(requests) || h.Calls+h.LostCalls < calls; time.Sleep(200 * time.Millisecond) {
		if q, h = ends(); time.Now().After(end) {
			break
		}
	}
	time.Sleep(healthEvery) // what would be counted twice would come late
	q, h = ends()
	t.Logf("the neighbour: %d calls at %.0f/s, %d of them seen, %d lost; the quiet one: %d calls at %d/s, %d of them seen, %d lost", calls, rate, h.Calls, h.LostCalls, requests, perSecond, q.Calls, q.LostCalls)
	if h.Calls+h.LostCalls != calls {
		t.Errorf("the neighbour: seen %d + lost %d = %d, want %d", h.Calls, h.LostCalls, h.Calls+h.LostCalls, calls)
	}
	if q.Calls+q.LostCalls != uint64(requests) {
		t.Errorf("the quiet one: seen %d + lost %d = %d, want %d", q.Calls, q.LostCalls, q.Calls+q.LostCalls, requests)
	}
	if q.LostCalls*100 >= uint64(requests) {
		t.Errorf("the quiet one lost %d of %d calls, 1 %% or more", q.LostCalls, requests)
	}
	if h.LostCalls == 0 {
		t.Error("the neighbour lost nothing: it was not fast enough to show anything")
	}
	of := map[string]uint64{}
	for _, e := range p.endpoints() {
		of[e.Service] += e.Calls
	}
	// What is shown are the same calls, and those of which only the client's end was seen.
	if n := of["127.0.0.1"]; n < q.Calls || n > uint64(requests) {
		t.Errorf("the inventory has %d calls of the quiet one, its server's end %d", n, q.Calls)
	}
	if n := of["hot.example"]; n < h.Calls || n > calls {
		t.Errorf("the inventory has %d calls of the neighbour, its server's end %d", n, h.Calls)
	}
	p.checkLosses(t, hot, quiet, h.LostCalls, p.callsOf(clients.Process.Pid).LostCalls)
}

// callsOf is what became of the calls at a process's ends of connections.
func (p *product) callsOf(pid int) coverageLine {
	p.t.Helper()
	for _, row := range p.agent().Health.Coverage {
		if row.PID == pid {
			return row
		}
	}
	return coverageLine{}
}

// checkLosses says that the losses of all cgroups are the kernel's counters (TestRingFullByCgroup counts each), that the hot one
// lost the heads of most of the calls that its two ends lost and of no other, and the quiet one next to nothing.
func (p *pair) checkLosses(t *testing.T, hot, quiet string, atServer, atClients uint64) {
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
	// Of HTTP/2 requests are counted, as one end writes and the other reads them. Some arrive and cannot be read: the bytes
	// before them are missing.
	if n := heads[hot]; n < (atServer+atClients)/2 || n > atServer+atClients {
		t.Errorf("%s lost %d heads; its server lost %d calls, its clients %d", hot, n, atServer, atClients)
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
