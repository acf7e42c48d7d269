package deploy

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

const benchResults = "../bin/bench/"

// publish prints the table and the verdicts, and keeps them with all samples beside the program.
func (b *bench) publish() {
	b.t.Helper()
	text, err := os.Create(benchResults + "bench.txt")
	must(b.t, err)
	defer text.Close()
	b.table(io.MultiWriter(os.Stdout, text))
	for _, v := range b.limits() {
		fmt.Fprintln(io.MultiWriter(os.Stdout, text), v)
		if v.gate && !v.holds() {
			b.t.Errorf("not held: %s", v.name)
		}
	}
	data, err := os.Create(benchResults + "bench.csv")
	must(b.t, err)
	defer data.Close()
	must(b.t, b.csv(data))
	fmt.Printf("\nall samples: bin/bench/bench.csv, this text: bin/bench/bench.txt\n")
}

// of returns the samples of one arm under one load, one a round.
func (b *bench) of(server, load, arm string) (all []sample) {
	for _, s := range b.samples {
		if s.server == server && s.load == load && s.arm == arm {
			all = append(all, s)
		}
	}
	return all
}

// mid is the median of a figure.
func mid[T ~int64 | ~float64](all []sample, of func(sample) T) T {
	var figures []T
	for _, s := range all {
		figures = append(figures, of(s))
	}
	return median(figures)
}

func (b *bench) table(to io.Writer) {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	type block struct{ server, load string }
	blocks, arms := map[block]bool{}, map[string]bool{}
	fmt.Fprintf(to, "\n%s\n", b.conditions())
	for _, s := range b.samples {
		at := block{s.server, s.load}
		if blocks[at] {
			continue
		}
		blocks[at] = true
		fmt.Fprintf(w, "\n%s, %s\tserver\tx none\tleast..most\tagent\tcollector\tproxy\tall but collector\tx none\tseen\t\n", s.server, s.load)
		clear(arms)
		for _, s := range b.samples {
			if (block{s.server, s.load}) != at || arms[s.arm] {
				continue
			}
			all := b.of(s.server, s.load, s.arm)
			if len(arms) == 0 {
				fmt.Fprintf(w, "%s\t%.1f\t1.00\t\t\t\t\t%.1f\t1.00\t\t\n", armNone, mid(all, func(s sample) float64 { return micro(s.none) }), mid(all, func(s sample) float64 { return micro(s.none) }))
			}
			arms[s.arm] = true
			least, most := math.Inf(1), 0.0
			for _, s := range all {
				least, most = min(least, s.ratio()), max(most, s.ratio())
			}
			fmt.Fprintf(w, "%s\t%.1f\t%.2f\t%.2f..%.2f\t%s\t%s\t%s\t%.1f\t%.2f\t%s\t\n", s.arm,
				mid(all, func(s sample) float64 { return micro(s.cpu) }), mid(all, sample.ratio), least, most,
				also(all, "agent"), also(all, "collector"), also(all, "proxy"),
				mid(all, func(s sample) float64 { return micro(s.total()) }), mid(all, sample.totalRatio), share(all))
		}
	}
	w.Flush()
	if len(b.resident) > 0 {
		var most occupied
		for _, m := range b.resident {
			if m.resident > most.resident {
				most = m
			}
		}
		fmt.Fprintf(to, "\nagent under load, the most of %d runs: %s\n", len(b.resident), most)
	}
	if b.crowd.resident > 0 {
		fmt.Fprintf(to, "agent at %d open connections, after %d calls in each (%.2f%% of them seen): %s\n\n", crowdSize, crowdCalls, 100*b.crowdSeen, b.crowd)
	}
}

func (b *bench) conditions() string {
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	must(b.t, err)
	version, err := exec.Command(binaries(b.t).agent, "version").Output()
	must(b.t, err)
	load, err := os.ReadFile("/proc/loadavg")
	must(b.t, err)
	return fmt.Sprintf("%s, Linux %s, load at the end %s.\nHTTPS keep-alive over %d connections as fast as they go, one worker; %d rounds of %d calls.\n"+
		"CPU µs per call by the scheduler's account, medians; ratios to the server alone just before, their medians and extremes.\n"+
		"Replies are JSON from memory. Collector: with the queries of this test. The copy-only reader's process stands under agent.",
		strings.TrimSpace(string(version)), strings.TrimSpace(string(kernel)), strings.Fields(string(load))[0], benchConnections, b.rounds, b.calls)
}

func also(all []sample, who string) string {
	if _, ok := all[0].also[who]; !ok {
		return ""
	}
	return fmt.Sprintf("%.1f", mid(all, func(s sample) float64 { return micro(s.also[who]) }))
}

func share(all []sample) string {
	if all[0].seen < 0 {
		return ""
	}
	var sum float64
	for _, s := range all {
		sum += s.seen
	}
	return fmt.Sprintf("%.2f%%", 100*sum/float64(len(all)))
}

func (b *bench) csv(to io.Writer) error {
	w := csv.NewWriter(to)
	w.Write([]string{"round", "server", "load", "arm", "calls", "none_ns", "server_ns", "agent_ns", "collector_ns", "proxy_ns", "seen"})
	for _, s := range b.samples {
		ns := func(d time.Duration) string { return fmt.Sprint(d.Nanoseconds()) }
		seen := ""
		if s.seen >= 0 {
			seen = fmt.Sprintf("%.4f", s.seen)
		}
		w.Write([]string{fmt.Sprint(s.round + 1), s.server, s.load, s.arm, fmt.Sprint(b.calls), ns(s.none), ns(s.cpu), ns(s.also["agent"]), ns(s.also["collector"]), ns(s.also["proxy"]), seen})
	}
	w.Flush()
	return w.Error()
}

var benchLine = regexp.MustCompile(`(?m)^Benchmark\S.*$`)

// goBench runs a room's own benchmarks and prints their lines.
func goBench(t testing.TB, dir, pattern, title string) {
	t.Helper()
	out, err := exec.Command("go", "test", "-run", "^$", "-bench", pattern, "-cpu", "1", dir).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", dir, err, out)
	}
	fmt.Printf("%s\n", title)
	for _, line := range benchLine.FindAllString(string(out), -1) {
		fmt.Println("  " + line)
	}
}
