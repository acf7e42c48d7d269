package coverage

import (
	"math/rand/v2"
	"testing"
	"time"
)

func id(n int) Process { return Process{TGID: uint32(n), Start: time.Duration(n) * time.Second} }

func row(n int, tls, decoded uint64) Row { return Row{Process: id(n), TLS: tls, Decoded: decoded} }

func counts(t *Table) map[string]uint64 {
	m := map[string]uint64{}
	t.Counts(func(name string, value uint64) { m[name] = value })
	return m
}

func TestShare(t *testing.T) {
	for _, c := range []struct {
		name        string
		rows        []Row // of one process, one update each
		calls, lost uint64
		want        float64
		known       bool
	}{
		{"nothing measured", nil, 0, 0, 0, false},
		{"no bytes, no calls", []Row{row(1, 0, 0)}, 0, 0, 0, false},
		{"calls without TLS", nil, 10, 0, 1, true},
		{"calls lost", nil, 2, 1, 0.666, true},
		{"a connection that has just begun", []Row{row(1, 3000, 0)}, 0, 0, 1, true},
		{"nothing decoded", []Row{row(1, 3000, 0), row(1, 3000, 0)}, 0, 0, 0, true},
		{"all decoded", []Row{row(1, 3000, 3000), row(1, 9000, 9000)}, 0, 0, 1, true},
		{"a third decoded", []Row{row(1, 3000, 1000), row(1, 3000, 1000)}, 0, 0, 0.333, true},
		{"0.3 is not rounded to 0.299", []Row{row(1, 1000, 300), row(1, 1000, 300)}, 0, 0, 0.3, true},
		{"both", []Row{row(1, 1000, 500), row(1, 1000, 500)}, 1, 1, 0.25, true},
		{"only calls lost", []Row{row(1, 1000, 1000)}, 0, 5, 0, true},
		{"credited later", []Row{row(1, 1000, 0), row(1, 1000, 0), row(1, 2000, 2000)}, 0, 0, 1, true},
		{"more decoded than there is", []Row{row(1, 1000, 1200), row(1, 1000, 1200)}, 0, 0, 1, true},
	} {
		table := New()
		for i, r := range c.rows {
			table.Update(time.Duration(i)*time.Second, []Row{r})
		}
		if c.calls+c.lost > 0 {
			table.Told(id(1), 0, c.calls, c.lost)
		}
		if got, known := table.Share(id(1)); got != c.want || known != c.known {
			t.Errorf("%s: %v %v, want %v %v", c.name, got, known, c.want, c.known)
		}
	}
	if _, known := New().Share(id(2)); known {
		t.Error("a stranger has a share")
	}
}

func TestRowsInOrder(t *testing.T) {
	table := New()
	rows := []Row{row(1, 5000, 5000), row(2, 900, 0), row(3, 10_000, 9500), row(4, 0, 0), row(5, 7000, 7000), {Process: id(7), QUIC: 700}}
	table.Update(time.Second, rows)
	table.Told(id(4), 0, 3, 1)
	table.Told(id(6), 0, 9, 0)
	table.Describe(id(2), Facts{Name: "java", Container: "c", PodUID: "p"})
	table.Explain(id(2), "", "TLS by JSSE is not decoded yet")
	table.Explain(id(5), "", "all of it was decoded, so nobody needs this")
	var order []uint32
	for _, r := range table.Rows(100) {
		order = append(order, r.GetPid())
	}
	want := []uint32{2, 7, 3, 5, 1, 6, 4}
	if len(order) != len(want) {
		t.Fatalf("%v, want %v", order, want)
	}
	for i := range want {
		if order[i] != want[i] {
			t.Fatalf("%v, want %v", order, want)
		}
	}
	first := table.Rows(1)
	if len(first) != 1 || first[0].GetProcess() != "java" || first[0].GetContainer() != "c" || first[0].GetPodUid() != "p" ||
		first[0].GetReason() != "TLS by JSSE is not decoded yet" || first[0].GetTlsBytes() != 900 {
		t.Errorf("%v", first)
	}
	for _, r := range table.Rows(100) {
		if (r.GetReason() == "") != (r.GetTlsBytes() == r.GetDecodedBytes() && r.GetQuicBytes() == 0) {
			t.Errorf("reason of %v", r)
		}
		if r.GetPid() == 4 && (r.GetCalls() != 3 || r.GetLostCalls() != 1) {
			t.Errorf("%v", r)
		}
	}
}

// A process that has ended is shown for a while, with the reason that was found while it lived.
func TestEndedAreShownForAWhile(t *testing.T) {
	table := New()
	table.Update(time.Second, []Row{row(1, 100, 0), row(2, 100, 0)})
	table.Explain(id(1), "java", "because")
	last := []Row{row(1, 150, 0), row(2, 100, 0)}
	last[0].Ended, last[1].Ended = true, true
	table.Update(2*time.Second, last)
	table.Told(id(1), 0, 1, 0) // what the ring still held
	table.Update(keepEnded, nil)
	rows := table.Rows(9)
	if len(rows) != 2 || rows[0].GetReason() != "because" || rows[0].GetProcess() != "java" || rows[0].GetTlsBytes() != 150 || rows[0].GetCalls() != 1 || rows[1].GetReason() == "" {
		t.Errorf("%v", rows)
	}
	table.Update(keepEnded+2*time.Second, nil)
	if rows := table.Rows(9); len(rows) != 0 {
		t.Errorf("still shown: %v", rows)
	}
	if c := counts(table); c["tls_bytes"] != 250 || c["processes"] != 0 || c["processes_evicted"] != 0 {
		t.Errorf("%v", c)
	}
}

func TestEndedAreBoundedAndTheHiddenStay(t *testing.T) {
	table := New()
	var rows []Row
	for n := range 1000 {
		r := row(n+1, 100, 100)
		if n%10 == 0 {
			r.Decoded = 0
		}
		r.Ended = true
		rows = append(rows, r)
	}
	table.Update(time.Second, rows)
	hidden := 0
	for _, r := range table.Rows(10_000) {
		if r.GetDecodedBytes() == 0 {
			hidden++
		}
	}
	if c := counts(table); hidden != 100 || c["processes"] != maxEnded || c["processes_evicted"] != 1000-maxEnded || c["tls_bytes"] != 100_000 {
		t.Errorf("%d hidden, %v", hidden, c)
	}
}

// A listing of the kernel may be cut short: only who stays away has ended.
func TestMissingRowsAreNoEnd(t *testing.T) {
	table := New()
	table.Update(time.Second, []Row{row(1, 100, 0)})
	table.Update(2*time.Second, nil)
	table.Update(3*time.Second, []Row{row(1, 150, 0)})
	if c := counts(table); c["tls_bytes"] != 150 || c["processes"] != 1 {
		t.Errorf("%v", c)
	}
	table.Update(3*time.Second+unlisted, nil)
	table.Update(3*time.Second+keepEnded, nil)
	if c := counts(table); c["tls_bytes"] != 150 || c["processes"] != 0 {
		t.Errorf("%v", c)
	}
}

// Calls may be told before the first update, which brings the time.
func TestCallsBeforeTheFirstUpdate(t *testing.T) {
	table := New()
	table.Told(id(1), 7, 5, 1)
	for i := range 3 {
		table.Update(4*time.Hour+time.Duration(i)*keepCaller/2, nil)
		if rows := table.Rows(9); (len(rows) == 1) != (i < 2) {
			t.Errorf("update %d: %v", i, rows)
		}
	}
	if table.callers != 0 {
		t.Errorf("%d callers", table.callers)
	}
}

func TestCallersAreBounded(t *testing.T) {
	table := New()
	for n := range 3 * maxCallers {
		table.Told(id(n+1), 7, 1, 0)
	}
	if c := counts(table); c["processes"] != maxCallers || c["processes_evicted"] != 2*maxCallers {
		t.Errorf("%v", c)
	}
	if q := table.Questions(); len(q) != maxQuestions || q[0].Cgroup != 7 {
		t.Errorf("%d questions", len(q))
	}
	table.Update(time.Hour, nil)
	table.Update(2*time.Hour, nil)
	if c := counts(table); c["processes"] != 0 || table.callers != 0 {
		t.Errorf("%v, %d", c, table.callers)
	}
}

func TestQuestionsAreAskedOnceAndNowAndThen(t *testing.T) {
	table := New()
	table.Update(time.Second, []Row{row(1, 1, 1)})
	if q := table.Questions(); len(q) != 1 || q[0].Process != id(1) {
		t.Fatalf("%v", q)
	}
	table.Describe(id(1), Facts{Name: "sh", Container: "c"})
	table.Update(2*time.Second, []Row{row(1, 2, 2)})
	if q := table.Questions(); len(q) != 0 {
		t.Errorf("asked again at once: %v", q)
	}
	table.Update(time.Second+describeAgain, []Row{row(1, 3, 3)})
	if q := table.Questions(); len(q) != 1 {
		t.Errorf("not asked again: %v", q)
	}
	table.Describe(id(1), Facts{Name: "nginx"})
	if r := table.Rows(1); r[0].GetProcess() != "nginx" || r[0].GetContainer() != "c" {
		t.Errorf("%v", r)
	}
}

// Whatever ends, comes back, is left out or is forgotten: the totals are what the kernel ever counted.
func TestNothingDisappearsFromTheSums(t *testing.T) {
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 1))
		table := New()
		kernel := map[Process]*Row{}
		var want figures
		now := time.Duration(0)
		for range 400 {
			now += time.Duration(rng.IntN(8)) * time.Second
			for range 5 {
				p := id(1 + rng.IntN(400))
				r := kernel[p]
				if r == nil {
					r = &Row{Process: p}
					kernel[p] = r
				}
				n := uint64(rng.IntN(1000))
				r.TLS += n
				want.tls += n
				if rng.IntN(2) == 0 {
					want.decoded += r.TLS - r.Decoded
					r.Decoded = r.TLS
				}
				r.Unbound += n / 3
				want.unbound += n / 3
				r.QUIC += n / 5
				want.quic += n / 5
				r.Ended = r.Ended || rng.IntN(8) == 0
			}
			var rows []Row
			for p, r := range kernel {
				if !r.Ended && rng.IntN(10) == 0 {
					continue // cut short
				}
				rows = append(rows, *r)
				if r.Ended {
					delete(kernel, p)
				}
			}
			table.Update(now, rows)
			if ended := len(table.Rows(1 << 20)); ended > maxEnded+400 {
				t.Fatalf("%d processes", ended)
			}
		}
		var rest []Row
		for _, r := range kernel {
			rest = append(rest, *r)
		}
		table.Update(now, rest)
		if table.total != want {
			t.Fatalf("seed %d: %+v, want %+v", seed, table.total, want)
		}
	}
}

func BenchmarkToldAndShare(b *testing.B) {
	table := New()
	table.Update(time.Second, []Row{row(1, 1000, 1000)})
	for b.Loop() {
		table.Told(id(1), 0, 1, 0)
		table.Share(id(1))
	}
}

// A process that ended before anybody looked has the kernel's name; one that was looked at has its file's.
func TestNamesOfTheKernel(t *testing.T) {
	table := New()
	brief, known := row(1, 100, 100), row(2, 100, 100)
	brief.Comm, brief.Ended, known.Comm = "postgres", true, "worker"
	table.Update(time.Second, []Row{brief, known})
	table.Describe(id(2), Facts{Name: "nginx"})
	names := map[uint32]string{}
	for _, r := range table.Rows(9) {
		names[r.GetPid()] = r.GetProcess()
	}
	if names[1] != "postgres" || names[2] != "nginx" {
		t.Errorf("%v", names)
	}
}
