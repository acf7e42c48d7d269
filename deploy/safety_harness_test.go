package deploy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// sized is what a torture test works with: a slice of it in `make test`, all of it in `make soak`.
func sized[T any](slice, full T) T {
	if os.Getenv("TEST_SPILE_SAFETY") == "full" {
		return full
	}
	return slice
}

// startOwnNginx starts nginx on a libssl that nobody else maps: a probe lies in a file, so what other agents on this machine
// watch would show in a common one.
func startOwnNginx(t testing.TB) *nginx {
	t.Helper()
	n := prepareNginx(t)
	cmd := exec.Command("nginx", "-p", n.dir, "-c", filepath.Join(n.dir, "nginx.conf"))
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Dir(ownLibrary(t, filepath.Join(n.dir, "lib"))))
	n.process = begin(t, cmd)
	eventually(t, 10*time.Second, "nginx listens", func() bool { return dials("127.0.0.1:8080") })
	return n
}

// ownLibrary copies libssl into a directory.
func ownLibrary(t testing.TB, dir string) string {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	return copied(t, systemLibrary(t, "libssl.so.3"), filepath.Join(dir, "libssl.so.3"))
}

// worker is the process of nginx that serves.
func (n *nginx) worker(t testing.TB) int {
	t.Helper()
	kids := children(t, n.Process.Pid)
	if len(kids) != 1 {
		t.Fatalf("nginx has the children %v, want one worker", kids)
	}
	return kids[0]
}

// flawless says that a load got an answer to each of its requests, and no connection failed.
func flawless(t testing.TB, load *process, requests int) {
	t.Helper()
	<-load.done
	said := load.log.String()
	want := fmt.Sprintf("requests: %d total, %d started, %d done, ", requests, requests, requests)
	if !strings.Contains(said, want) || !strings.Contains(said, " 0 errored, 0 timeout\n") {
		t.Errorf("the load was disturbed:\n%s", said)
	}
}

// mapping is one executable piece of a file in a process.
type mapping struct {
	start, end, offset int64
	inode              uint64
	path               string
}

var mappingLine = regexp.MustCompile(`^([0-9a-f]+)-([0-9a-f]+) r-xp ([0-9a-f]+) \S+ ([0-9]+) +(/.*)$`)

func codeOf(t testing.TB, pid int) []mapping {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	must(t, err)
	defer maps.Close()
	var all []mapping
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		f := mappingLine.FindStringSubmatch(lines.Text())
		if f == nil {
			continue
		}
		hex := func(s string) int64 { n, _ := strconv.ParseInt(s, 16, 64); return n }
		inode, _ := strconv.ParseUint(f[4], 10, 64)
		all = append(all, mapping{hex(f[1]), hex(f[2]), hex(f[3]), inode, f[5]})
	}
	return all
}

// eachCode compares the pieces of code of a process with the files that it maps: altered bytes are what a probe that lies there
// put in their place, or what one that was taken out left behind.
func eachCode(t testing.TB, pid int, tell func(m mapping, altered, compared int)) {
	t.Helper()
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	must(t, err)
	defer memory.Close()
	for _, m := range codeOf(t, pid) {
		file, err := os.Open(m.path)
		must(t, err)
		info, err := file.Stat()
		must(t, err)
		if info.Sys().(*syscall.Stat_t).Ino != m.inode {
			t.Fatalf("%s was replaced under process %d", m.path, pid)
		}
		want, got := make([]byte, m.end-m.start), make([]byte, m.end-m.start)
		n, err := file.ReadAt(want, m.offset)
		file.Close()
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		_, err = memory.ReadAt(got[:n], m.start)
		must(t, err)
		altered := 0
		for i := range n {
			if want[i] != got[i] {
				altered++
			}
		}
		tell(m, altered, n)
	}
}

func breakpoints(t testing.TB, pid int) (altered, compared int) {
	t.Helper()
	eachCode(t, pid, func(_ mapping, a, c int) { altered, compared = altered+a, compared+c })
	return altered, compared
}

// probed says that there are probes in a process's code, so that a later look can tell that they are gone.
func probed(t testing.TB, pid int) {
	t.Helper()
	if altered, compared := breakpoints(t, pid); altered == 0 || compared < 1<<16 {
		t.Fatalf("%d of %d bytes of the code of process %d are altered: it is not probed", altered, compared, pid)
	}
}

// unprobed says that a process's code is what its files hold. The kernel forgets the name of a link a moment before it takes
// out what the link put in.
func unprobed(t testing.TB, pid int) {
	t.Helper()
	eventually(t, 5*time.Second, fmt.Sprintf("the code of process %d is again what its files hold", pid), func() bool {
		altered, _ := breakpoints(t, pid)
		return altered == 0
	})
}

// entries counts what the hash maps that a process holds have in them, by name.
func entries(t testing.TB, pid int) map[string]int {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	must(t, err)
	count := map[string]int{}
	for _, f := range infos {
		data, _ := os.ReadFile(f)
		_, rest, ok := strings.Cut(string(data), "map_id:")
		if !ok {
			continue
		}
		id, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 32)
		must(t, err)
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			continue // it was closed meanwhile
		}
		info, err := m.Info()
		must(t, err)
		switch m.Type() {
		case ebpf.Hash, ebpf.PerCPUHash: // the LRU ones fill up by design: their oldest entries go
			key := make([]byte, m.KeySize())
			n := 0
			for err = m.NextKey(nil, key); err == nil && n < int(m.MaxEntries()); n++ {
				err = m.NextKey(bytes.Clone(key), key)
			}
			count[info.Name] = n
		}
		m.Close()
	}
	if len(count) == 0 {
		t.Fatalf("process %d holds no hash map of eBPF", pid)
	}
	return count
}

// resident is a process's memory, in bytes: what is its own and what it has of files.
func resident(t testing.TB, pid int) int {
	t.Helper()
	return footprintOf(t, pid).rss
}

// alike reports whether two figures differ by at most so many percent of the first.
func alike(a, b, percent int) bool { return max(a, b)-min(a, b) <= a*percent/100 }
