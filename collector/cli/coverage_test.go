package cli

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const aContainer = "3f2a9c1d0b7e4455667788990011223344556677889900112233445566778899"

// aNode is what an agent tells of a node where most things can go wrong.
func aNode() *v1.Agent {
	rows := []*v1.Coverage{
		{Pid: 7, Process: "app", Reason: "TLS by rustls is not decoded yet", TlsBytes: 8_000_000},
		{Pid: 8, Process: "app", Reason: "TLS by rustls is not decoded yet", TlsBytes: 2_000_000, QuicBytes: 500_000},
		{Pid: 20, Process: "nginx", TlsBytes: 1_000_000, DecodedBytes: 999_999, Reason: "these bytes passed before it was attached", Container: aContainer, PodUid: "8c1b5a7e-0000"},
		{Pid: 21, Process: "nginx", TlsBytes: 1_000_000, DecodedBytes: 1_000_000, Container: aContainer},
		{Pid: 22, Process: "sidecar", TlsBytes: 3_000_000, Reason: "JSSE", Container: aContainer},
		{Pid: 30, Process: "quiche", QuicBytes: 40_000, Reason: "QUIC is not decoded"},
		{Pid: 40, Process: "busy", TlsBytes: 90_000, DecodedBytes: 90_000, Calls: 328, LostCalls: 12},
		{Pid: 50, Process: "python3", TlsBytes: 50_000, DecodedBytes: 20_000, UnboundBytes: 29_000},
		{Pid: 60, Process: "fine", TlsBytes: 70_000_000, DecodedBytes: 70_000_000},
	}
	for pid := range uint32(6) {
		rows = append(rows, &v1.Coverage{Pid: 100 + pid, Process: "java", Reason: "JSSE", TlsBytes: 100_000 * uint64(pid%5)})
	}
	return &v1.Agent{Node: "n1", Connected: true, Health: &v1.Health{Rungs: map[string]string{"socket": "tp_btf"}, Coverage: rows}}
}

func TestCoverageTable(t *testing.T) {
	var out bytes.Buffer
	if err := printGaps(World{Stdout: &out}, []*v1.Agent{aNode()}); err != nil {
		t.Fatal(err)
	}
	want := `
WORKLOAD                                              PID             TLS BYTES  DECODED  SHARE  WHY
app                                                   7 8                  10MB       0B     0%  TLS by rustls is not decoded yet; 500kB of QUIC
sidecar nginx (container 3f2a9c1d0b7e, pod 8c1b5a7e)                      5.0MB    2.0MB  39.9%  2 of 3 processes, 2 reasons:
  sidecar                                             22                  3.0MB       0B     0%  JSSE
  nginx                                               20                  1.0MB    1.0MB  99.9%  these bytes passed before it was attached
java                                                  100 101 102 +3      1.0MB       0B     0%  JSSE
quiche                                                30                     0B       0B      -  QUIC is not decoded; 40kB of QUIC
python3                                               50                   50kB     20kB  40.0%  the agent names no reason; 29kB decoded without a known peer
busy                                                  40                   90kB     90kB   100%  12 of 340 calls lost
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	other := &v1.Agent{Node: "n2", Health: &v1.Health{Coverage: []*v1.Coverage{{Pid: 1, Process: "app", TlsBytes: 9, Reason: "stripped"}}}}
	if err := printGaps(World{Stdout: &out}, []*v1.Agent{other, {Node: "n1"}}); err != nil {
		t.Fatal(err)
	}
	if want := "\nNODE  WORKLOAD  PID  TLS BYTES  DECODED  SHARE  WHY\nn2    app       1           9B       0B     0%  stripped\n"; out.String() != want {
		t.Errorf("of two agents:\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	whole := &v1.Agent{Health: &v1.Health{Coverage: []*v1.Coverage{{Pid: 1, Process: "app", TlsBytes: 9, DecodedBytes: 9}}}}
	if err := printGaps(World{Stdout: &out}, []*v1.Agent{whole}); err != nil || out.Len() > 0 {
		t.Errorf("nothing is missing: %v %s", err, out.String())
	}
}

// TestReasonsAreReadableOnATerminal: they wrap, however narrow it is, and no word of them is lost.
func TestReasonsAreReadableOnATerminal(t *testing.T) {
	reason := "TLS by rustls is not decoded yet because its symbols were stripped from the executable; keep them, or ask its makers to"
	agent := &v1.Agent{Health: &v1.Health{Coverage: []*v1.Coverage{{Pid: 7, Process: "app", Reason: reason, TlsBytes: 8_000_000}}}}
	for width, want := range map[int]string{
		90: "\nWORKLOAD  PID  TLS BYTES  DECODED  SHARE  WHY\n" +
			"app       7        8.0MB       0B     0%  TLS by rustls is not decoded yet because its\n" +
			"                                          symbols were stripped from the executable; keep\n" +
			"                                          them, or ask its makers to\n",
		60: "\nWORKLOAD  PID  TLS BYTES  DECODED  SHARE  WHY\n" +
			"app       7        8.0MB       0B     0%  \n" +
			"    TLS by rustls is not decoded yet because its symbols\n" +
			"    were stripped from the executable; keep them, or ask its\n" +
			"    makers to\n",
	} {
		var out bytes.Buffer
		if err := printGaps(World{Stdout: &out, Terminal: true, Width: width, Env: []string{"NO_COLOR=1"}}, []*v1.Agent{agent}); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%d columns:\n%s\nwant\n%s", width, out.String(), want)
		}
	}
	for width := 1; width < 120; width++ {
		var out bytes.Buffer
		if err := printGaps(World{Stdout: &out, Terminal: true, Width: width, Env: []string{"NO_COLOR=1"}}, []*v1.Agent{agent}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, " \n")); n > max(width, wrapIndent+1) {
				t.Errorf("%d columns: %q", width, line)
			}
		}
		if got := strings.Join(strings.Fields(out.String()), " "); width > 20 && !strings.HasSuffix(got, " "+reason) {
			t.Errorf("%d columns: %s", width, got)
		}
	}
}

// TestCoverageTableIsBounded has more workloads, and more reasons in one, than anybody reads.
func TestCoverageTableIsBounded(t *testing.T) {
	var rows []*v1.Coverage
	for i := range 1000 {
		rows = append(rows, &v1.Coverage{Pid: uint32(i), Process: fmt.Sprint("p", i), TlsBytes: 1_000_000 - uint64(i), Reason: "r"},
			&v1.Coverage{Pid: uint32(i), Process: "many", Container: aContainer, TlsBytes: 1_000_000, DecodedBytes: uint64(i), Reason: fmt.Sprint("r", i)})
	}
	var out bytes.Buffer
	if err := printGaps(World{Stdout: &out}, []*v1.Agent{{Health: &v1.Health{Coverage: rows}}}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 1+maxWorkloads+maxGaps+1+1 {
		t.Errorf("%d lines:\n%s", len(lines), out.String())
	}
	for i, want := range map[int]string{1: "1000 reasons:", 6: "r4", 7: "995 more reasons", len(lines) - 1: "… and 981 more workloads, 981MB not decoded"} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %d: %q, want %q", i, lines[i], want)
		}
	}
}

// TestSharesAreRoundedDown says 100% of nothing but all, and 0% of nothing but nothing.
func TestSharesAreRoundedDown(t *testing.T) {
	for _, c := range []struct {
		decoded, tls uint64
		want         string
	}{
		{0, 0, "-"}, {0, 1, "0%"}, {1, 1, "100%"}, {9999, 10_000, "99.9%"}, {math.MaxUint64 - 1, math.MaxUint64, "99.9%"}, {math.MaxUint64, math.MaxUint64, "100%"},
		{1, 1000, "0.1%"}, {1, 1001, "<0.1%"}, {1, math.MaxUint64, "<0.1%"}, {29, 100, "29.0%"}, {2, 3, "66.6%"},
	} {
		if got := (&account{tls: c.tls, decoded: c.decoded}).share(); got != c.want {
			t.Errorf("%d of %d is %s, want %s", c.decoded, c.tls, got, c.want)
		}
	}
	for v, want := range map[float64]string{0: "0%", 1: "100%", 0.9999: "99.9%", 0.999: "99.9%", math.Nextafter(1, 0): "99.9%", 0.57: "57.0%", 0.0001: "<0.1%",
		math.NaN(): "?", -1: "?", 2: "100%", math.Inf(1): "100%"} {
		if got := shareOf(proto.Float64(v)); got != want {
			t.Errorf("%v is %s, want %s", v, got, want)
		}
	}
	for n := range 1000 {
		if got, want := shareOf(proto.Float64(float64(n)/1000)), fmt.Sprintf("%d.%d%%", n/10, n%10); got != want && n > 0 {
			t.Errorf("%d thousandths are %s", n, got)
		}
	}
	if got := shareOf(nil); got != "?" {
		t.Errorf("unknown is %s", got)
	}
}

func TestStatusSaysHowMuchIsDecoded(t *testing.T) {
	said := func(h *v1.Health) string {
		t.Helper()
		var out bytes.Buffer
		if err := printStatus(World{Stdout: &out, Now: time.Now}, "here", &v1.GetStatusResponse{}, []*v1.Agent{{Node: "n1", Health: h}}); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	count := func(name string, v uint64) *v1.Count { return &v1.Count{Stage: "coverage", Name: name, Value: v} }
	h := aNode().GetHealth()
	if out := said(h); !strings.Contains(out, "  coverage  72MB of 86MB of TLS decoded, 83.7%; 29kB unbound; 540kB of QUIC\n") {
		t.Errorf("of rows:\n%s", out)
	}
	// Rows are bounded; an agent's totals are not.
	h.Counts = []*v1.Count{count("tls_bytes", 2_000_000_000), count("decoded_bytes", 1_999_999_999), count("unbound_bytes", 0), count("quic_bytes", 1), count("processes", 3), count("processes_evicted", 0)}
	out := said(h)
	if !strings.Contains(out, "  coverage  2.0GB of 2.0GB of TLS decoded, 99.9%; 0B unbound; 1B of QUIC; processes 3\n") || strings.Contains(out, "tls_bytes") {
		t.Errorf("of totals:\n%s", out)
	}
	if out := said(&v1.Health{}); !strings.Contains(out, "no TLS seen; 0B unbound; 0B of QUIC") {
		t.Errorf("of nothing:\n%s", out)
	}
}

func TestAgentsAndInventoryShowCoverage(t *testing.T) {
	var out bytes.Buffer
	w := World{Stdout: &out, Now: time.Now}
	if err := printAgents(w, []*v1.Agent{aNode(), {Node: "n2"}}); err != nil {
		t.Fatal(err)
	}
	columns := func(line, head string) string {
		lines := strings.Split(out.String(), "\n")
		for _, l := range lines {
			if strings.Contains(l, line) {
				// Of a column that is aligned to the right.
				end := strings.Index(lines[0], head) + len(head)
				return strings.TrimSpace(l[strings.LastIndex(l[:end], "  "):end])
			}
		}
		return ""
	}
	if got, n := columns("n1", "COVERAGE"), columns("n1", "UNCOVERED"); got != "83.7%" || n != "13" || columns("n2", "COVERAGE") != "-" {
		t.Errorf("agents: %q, %q uncovered\n%s", got, n, out.String())
	}
	out.Reset()
	if err := printEndpoints(w, []*v1.Endpoint{{Service: "a", Coverage: proto.Float64(0.9999)}, {Service: "b"}, {Service: "c", Coverage: proto.Float64(0)}}); err != nil {
		t.Fatal(err)
	}
	if a, b, c := columns("a ", "COVERAGE"), columns("b ", "COVERAGE"), columns("c ", "COVERAGE"); a != "99.9%" || b != "?" || c != "0%" {
		t.Errorf("endpoints: %q %q %q\n%s", a, b, c, out.String())
	}
	out.Reset()
	if err := printServices(w, []*v1.Service{{Name: "a", Coverage: proto.Float64(1)}}); err != nil || columns("a ", "COVERAGE") != "100%" {
		t.Errorf("services: %v\n%s", err, out.String())
	}
}

// FuzzCoverage gives people what a hostile agent says of its processes.
func FuzzCoverage(f *testing.F) {
	f.Add("node\x1b[31m", "static\n\x9b2J", "c\u202e", uint64(math.MaxUint64), uint64(math.MaxUint64), uint64(1), uint64(math.MaxUint64))
	f.Add("", "", "", uint64(0), uint64(5), uint64(0), uint64(0))
	f.Add("é\xff", "\x00", strings.Repeat("é", 9), uint64(1), uint64(2), uint64(3), uint64(4))
	f.Fuzz(func(t *testing.T, process, reason, container string, tls, decoded, quic, lost uint64) {
		row := &v1.Coverage{Process: process, Reason: reason, Container: container, PodUid: container, TlsBytes: tls, DecodedBytes: decoded, QuicBytes: quic, LostCalls: lost, Calls: tls}
		again := proto.CloneOf(row)
		again.Reason += "x"
		agents := []*v1.Agent{{Node: process, Health: &v1.Health{Rungs: map[string]string{"a": "b"}, Coverage: []*v1.Coverage{row, again, row}}}, {Node: reason}}
		var out bytes.Buffer
		now := time.Now()
		w := World{Stdout: &out, Now: func() time.Time { now = now.Add(gapPatience); return now }}
		l := &live{world: w, calls: newCallTable(w, true), told: map[string]bool{}}
		for _, err := range []error{printStatus(w, "here", &v1.GetStatusResponse{}, agents), printAgents(w, agents), l.agent(agents[0]), l.agent(agents[0]),
			printGaps(World{Stdout: &out, Terminal: true, Width: int(tls % 150), Env: []string{"NO_COLOR=1"}}, agents)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if !strings.Contains(out.String(), "# not decoded: ") {
			t.Errorf("nothing was told:\n%s", out.String())
		}
		for line := range strings.Lines(out.String()) {
			if line = strings.TrimSuffix(line, "\n"); !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }) {
				t.Errorf("%q reached the terminal", line)
			}
		}
		sum := totals(agents[0].GetHealth())
		if all := sum.share() == "100%"; all != (sum.tls > 0 && sum.decoded >= sum.tls) {
			t.Errorf("%d of %d is %s", sum.decoded, sum.tls, sum.share())
		}
	})
}
