package bpf

import (
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// What the verifier looked at on the kernels of `make vmtest`; `make vmtest RECORD=1` writes it anew.
//
//go:embed testdata/verifier.csv
var verifierRecord string

const (
	// The verifier gives up at a million instructions. A margin is kept, since older ones look at more: 6.1 at 316,755 where
	// 6.18 looks at 185,722.
	mostInstructions = 400_000
	// Growth that is told, and growth that must be recorded on purpose.
	toldGrowth, mostGrowth = 0.05, 0.5
	// A program below this may grow as it likes.
	smallProgram = 10_000

	printCounts  = "SPILE_TEST_COUNTS" // in a guest: each count as "verified,kernel,object,program,instructions"
	recordCounts = "SPILE_TEST_RECORD" // the record is about to be written: growth is not a failure
)

// TestVerifierCounts loads every program that this kernel can have and holds what its verifier looked at against the record.
func TestVerifierCounts(t *testing.T) {
	requireKernel(t)
	kernel := runningSeries(t)
	counts := verifyAll(t)
	if len(counts) == 0 {
		t.Fatal("nothing was loaded")
	}
	record := parseRecord(t, verifierRecord)
	near := nearestSeries(record, kernel)
	if near == "" {
		t.Logf("no kernel is recorded in testdata/verifier.csv: `make vmtest RECORD=1` does")
	} else {
		t.Logf("Linux %s, %d programs, held against the record of %s", kernel, len(counts), near)
	}
	for _, p := range slices.SortedFunc(maps.Keys(counts), program.compare) {
		n, before := counts[p], record[near][p]
		if os.Getenv(printCounts) != "" {
			fmt.Printf("verified,%s,%s,%s,%d\n", kernel, p.object, p.name, n)
		}
		growth := float64(n)/float64(max(before, 1)) - 1
		switch {
		case near == "":
		case before == 0:
			t.Logf("%s: %d instructions, not recorded", p, n)
		case math.Abs(growth) > toldGrowth:
			t.Logf("%s: %d instructions, %d recorded (%+.0f%%)", p, n, before, 100*growth)
		}
		if n > mostInstructions {
			t.Errorf("%s: %d instructions verified, want at most %d", p, n, mostInstructions)
		}
		// Another kernel's verifier counts otherwise.
		if before > 0 && near == kernel && n > smallProgram && growth > mostGrowth && os.Getenv(recordCounts) == "" {
			t.Errorf("%s: %d instructions, %d recorded: more than %.0f%% growth; if it is wanted, record it by `make vmtest RECORD=1`", p, n, before, 100*mostGrowth)
		}
	}
	for p := range record[near] {
		if counts[p] == 0 && near == kernel {
			t.Logf("%s: recorded, and not loaded here", p)
		}
	}
}

type program struct{ object, name string }

func (p program) String() string { return p.object + "/" + p.name }

func (p program) compare(other program) int { return strings.Compare(p.String(), other.String()) }

// verifyAll loads each object by itself, with rules of every kind and a budget, so that no branch is cut off before the verifier
// sees it. Nothing is attached.
func verifyAll(t *testing.T) map[program]int {
	t.Helper()
	every := Rules{NetNS: []uint32{1}, CgroupFDs: []int{0}, Exe: true, PIDs: []uint32{1}, Ports: []uint16{1}}
	options := Options{Select: Selector{Include: every, Exclude: every}, RingBytes: minRingBytes, BudgetBytes: 1 << 20, BodyBytes: 1 << 20}
	if err := errors.Join(options.fill(), rlimit.RemoveMemlock()); err != nil {
		t.Fatal(err)
	}
	s, err := loadSpecs(options)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[program]int{}
	add := func(object string, spec *ebpf.CollectionSpec) error {
		c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
		if errors.Is(err, unix.EPERM) && len(counts) == 0 {
			t.Skip("no right to load programs here (CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN):", err)
		}
		if verifier := (*ebpf.VerifierError)(nil); errors.As(err, &verifier) {
			t.Errorf("%s: %v\n%s", object, err, tail(fmt.Sprintf("%+v", verifier)))
		}
		if err != nil {
			return err
		}
		defer c.Close()
		for name, p := range c.Programs {
			counts[program{object, name}] = instructions(t, p)
		}
		return nil
	}
	for object, spec := range map[string]*ebpf.CollectionSpec{"proc": s.proc, "tls": s.tls, "gotls": s.gotls, "sock": keep(s.sock, lifeHooks())} {
		if err := add(object, spec); err != nil {
			t.Errorf("load %s: %v", object, err)
		}
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	loaded := 0
	for _, r := range append(socketRungs(), rung{"the list of open sockets", map[string]attach{"list_sockets": nil}}) {
		err := missing(kernel, r)
		if err == nil && r.name == RungFexit {
			err = fitFexit(kernel, r.programs)
		}
		if err != nil {
			t.Logf("not on this kernel: %s: %v", r.name, err)
			continue
		}
		// One by one: a rung may name a function that only some kernels have.
		for _, name := range slices.Sorted(maps.Keys(r.programs)) {
			if err := add("sock", keep(s.sock, map[string]attach{name: nil})); err != nil {
				t.Logf("not on this kernel: %s: %.300v", r.name, err)
				continue
			}
			loaded++
		}
	}
	if loaded == 0 {
		t.Error("no rung of the socket hook was verified")
	}
	return counts
}

var processed = regexp.MustCompile(`processed (\d+) insns`)

// instructions asks the kernel, or before Linux 5.16 the last line of its verifier.
func instructions(t *testing.T, p *ebpf.Program) int {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := info.VerifiedInstructions(); ok {
		return int(n)
	}
	m := processed.FindStringSubmatch(p.VerifierLog)
	if m == nil {
		t.Fatalf("the verifier does not say what it processed: %q", p.VerifierLog)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func runningSeries(t *testing.T) string {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		t.Fatalf("release %q: %v", release, err)
	}
	return fmt.Sprintf("%d.%d", major, minor)
}

// parseRecord returns instructions by kernel and program.
func parseRecord(t *testing.T, text string) map[string]map[program]int {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil || len(rows) == 0 || len(rows[0]) != 4 {
		t.Fatalf("testdata/verifier.csv: %d rows, %v; want kernel,object,program,instructions", len(rows), err)
	}
	record := map[string]map[program]int{}
	for _, row := range rows[1:] {
		n, err := strconv.Atoi(row[3])
		if err != nil || n <= 0 {
			t.Fatalf("testdata/verifier.csv: %q: a count is above zero", row)
		}
		if record[row[0]] == nil {
			record[row[0]] = map[program]int{}
		}
		record[row[0]][program{row[1], row[2]}] = n
	}
	return record
}

// nearestSeries is the newest recorded kernel up to this one, else the oldest.
func nearestSeries(record map[string]map[program]int, kernel string) (near string) {
	order := func(a, b string) int {
		var x, y [2]int
		_, _ = fmt.Sscanf(a, "%d.%d", &x[0], &x[1])
		_, _ = fmt.Sscanf(b, "%d.%d", &y[0], &y[1])
		return slices.Compare(x[:], y[:])
	}
	for _, series := range slices.SortedFunc(maps.Keys(record), order) {
		if near == "" || order(series, kernel) <= 0 {
			near = series
		}
	}
	return near
}

func TestNearestSeries(t *testing.T) {
	record := parseRecord(t, "kernel,object,program,instructions\n5.10,o,p,1\n6.1,o,p,1\n6.18,o,p,1\n")
	for kernel, want := range map[string]string{"5.4": "5.10", "5.10": "5.10", "6.1": "6.1", "6.12": "6.1", "6.18": "6.18", "7.3": "6.18"} {
		if got := nearestSeries(record, kernel); got != want {
			t.Errorf("%s is held against %s, want %s", kernel, got, want)
		}
	}
}
