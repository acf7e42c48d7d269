package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
)

// residentBytes is this process's memory after a collection.
func residentBytes(t testing.TB) int {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// TestCycles attaches the real programs to files and takes them out, again and again: 10,000 times in `make soak`. Memory is
// flat, nothing stays in the kernel, and the programs that map the files call them all the while.
func TestCycles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const files, callsPerCycle = 20, 1000
	cycles, percent := 200, 15
	if os.Getenv("TEST_SPILE_SAFETY") == "full" {
		cycles, percent = 10_000, 5
	}
	var self unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &self); err != nil {
		t.Fatal(err)
	}
	objects, err := bpf.Load(bpf.Options{RingBytes: 1 << 20, Select: bpf.Selector{Include: bpf.Rules{NetNS: []uint32{uint32(self.Ino)}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer objects.Close()
	times := quick()
	times.Check = time.Second
	r := registryOf(t, Config{Programs: objects, Counters: objects, Times: times})
	closeAtEnd(t, r)
	var callers [files]*caller
	var libraries [files]target.File
	for i := range files {
		path := library(t, filepath.Join(t.TempDir(), fmt.Sprint(i)))
		callers[i], libraries[i] = newCaller(t, path), described(t, path)
	}
	rounds := func(n int) {
		for range n / files {
			var all sync.WaitGroup
			for i, c := range callers {
				all.Go(func() {
					asked := c.ask("SSL_free", callsPerCycle) // while its probes come and go
					if !r.Use(c.process(), libraries[i]) {
						t.Errorf("not attached: %s", libraries[i].Path)
					}
					r.Drop(c.process(), libraries[i].ID)
					if said, err := c.out.ReadString('\n'); asked != nil || err != nil || said != "done 0\n" {
						t.Errorf("the caller of %s said %q (%v, %v)", libraries[i].Path, said, asked, err)
					}
				})
			}
			all.Wait()
			eventually(t, "everything is let go of", func() bool { return len(r.List()) == 0 })
			r.detaching.Wait() // a descriptor is there until its link is out
			if t.Failed() {
				return
			}
		}
	}
	// The median of some readings: a stack more or less is a percent.
	level := func() int {
		var readings []int
		for range 5 {
			rounds(files)
			readings = append(readings, residentBytes(t))
		}
		slices.Sort(readings)
		return readings[len(readings)/2]
	}
	rounds(max(cycles/10, 200)) // until it has as many threads as it will ever need
	before, open := level(), descriptors(t)
	began := time.Now()
	rounds(cycles)
	after := level()
	t.Logf("%d cycles in %v; %d KiB before, %d KiB after", cycles, time.Since(began).Round(time.Millisecond), before>>10, after>>10)
	if after > before+before*percent/100 {
		t.Errorf("memory grew from %d to %d KiB, by more than %d %%", before>>10, after>>10, percent)
	}
	if n := descriptors(t); n != open {
		t.Errorf("%d descriptors before, %d after", open, n)
	}
	for i, c := range callers {
		if n := linksOn(t, libraries[i].Path); n != 0 {
			t.Errorf("%d links are left on %s", n, libraries[i].Path)
		}
		c.call(t, 3)
	}
}
