package owner

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	crashDir   = "SPILE_TEST_CRASH_DIR"
	crashFirst = "SPILE_TEST_CRASH_FIRST"
	crashKills = 20
)

// crashRecord is record n of the crash test: every fifth goes to two partitions, as intake splits a batch.
func crashRecord(n uint64) (services []string, calls int) {
	services = []string{fmt.Sprint("s", n%11, ".example")}
	if other := fmt.Sprint("t", n%11, ".example"); n%5 == 0 && partitionOf(other) != partitionOf(services[0]) {
		services = append(services, other)
	}
	return services, 20 + int(n%30)
}

// TestCrashChild is the collector of TestKilledAtAnyMomentNothingIsLostOrDoubled: it appends, says which record was
// acknowledged, owns, and never ends by itself.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("only as a child of the crash test")
	}
	first, err := strconv.ParseUint(os.Getenv(crashFirst), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	j, c := openJournal(t, dir), newCoder(t)
	start(t, j, func(cfg *Config) { cfg.Every = 5 * time.Millisecond })
	fmt.Println("ready")
	for n := first; ; n++ {
		services, count := crashRecord(n)
		for _, s := range services {
			put(t, j, s, c.record(t, "n1", n, callsOf(s, n, count)))
			if n%7 == 0 {
				put(t, j, s, c.record(t, "n1", n, callsOf(s, n, count)))
			}
		}
		fmt.Println(n)
		time.Sleep(time.Millisecond)
	}
}

func TestKilledAtAnyMomentNothingIsLostOrDoubled(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(11, 12))
	acked := uint64(0)
	for n := range crashKills {
		// Half of the runs die while they start, half while they work, however slow the machine is.
		acked = runAndKill(t, dir, acked, n%2 == 0, time.Duration(r.IntN(300))*time.Millisecond)
	}

	// The record after the last acknowledged one may be stored, in part. The sender repeats it.
	j, c, want := openJournal(t, dir), newCoder(t), oracle{}
	owners := start(t, j, nil)
	for n := uint64(1); n <= acked+1; n++ {
		services, count := crashRecord(n)
		for _, s := range services {
			calls := callsOf(s, n, count)
			want.add(calls)
			if n == acked+1 {
				put(t, j, s, c.record(t, "n1", n, calls))
			}
		}
	}
	defer func() {
		if t.Failed() {
			t.Logf("%+v %v", owners.Stats(), owners.warnings())
			want.check(t, tables(owners.Endpoints(""), owners.Findings()))
		}
	}()
	eventually(t, "all is in", func() bool {
		s := owners.Stats()
		return owners.Ready() && s.Lag == 0 && tables(nil, owners.Findings()).calls() >= want.calls()
	})
	want.check(t, tables(owners.Endpoints(""), owners.Findings()))
	if s := owners.Stats(); s.LostCalls != 0 || s.Restarts != 0 || len(owners.warnings()) > 0 {
		t.Errorf("%+v, %v", s, owners.warnings())
	}
	owners.stop()
	j.Close()
	want.check(t, stored(t, openJournal(t, dir)))
	t.Logf("%d records, %d calls, %d kills", acked+1, want.calls(), crashKills)
}

// runAndKill starts the child, kills it a while after it is ready or has worked, and returns the last record acknowledged.
func runAndKill(t *testing.T, dir string, acked uint64, working bool, after time.Duration) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestCrashChild$", "-test.v")
	child.Env = append(os.Environ(), crashDir+"="+dir, crashFirst+"="+strconv.FormatUint(acked+1, 10))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	armed := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said = append(said, lines.Text())
		n, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err == nil {
			acked = n
		}
		if !armed && (err == nil || !working && lines.Text() == "ready") {
			armed = true
			time.AfterFunc(after, func() { child.Process.Kill() })
		}
	}
	if err := child.Wait(); !armed || err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("child ended with %v after it said\n%s", err, strings.Join(said, "\n"))
	}
	return acked
}
