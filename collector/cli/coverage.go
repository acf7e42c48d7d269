package cli

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// account is what some processes moved, added up. Agents choose the figures, so sums stop at the largest number.
type account struct{ tls, decoded, unbound, quic, calls, lost uint64 }

func (a *account) add(c *v1.Coverage) {
	a.tls, a.decoded = plus(a.tls, c.GetTlsBytes()), plus(a.decoded, c.GetDecodedBytes())
	a.unbound, a.quic = plus(a.unbound, c.GetUnboundBytes()), plus(a.quic, c.GetQuicBytes())
	a.calls, a.lost = plus(a.calls, c.GetCalls()), plus(a.lost, c.GetLostCalls())
}

func plus(a, b uint64) uint64 {
	sum, carry := bits.Add64(a, b, 0)
	if carry > 0 {
		return math.MaxUint64
	}
	return sum
}

// missing is the bytes that nobody decoded, TLS and QUIC.
func (a *account) missing() uint64 {
	return plus(a.tls-min(a.decoded, a.tls), a.quic)
}

// fewBytes are what connections leave behind that come to nothing: the alert that answers a port scan or the health check
// of a load balancer, a handshake that was broken off. A handshake that succeeds moves more.
const fewBytes = 1 << 10

// gap says whether something of it is not seen, or not seen exactly, that is worth a person's time: figures and shares
// always tell all.
func (a *account) gap() bool { return a.matters(a.missing()) || a.matters(a.unbound) || a.lost > 0 }

// matters says whether bytes are more than a few, and more than one in a thousand.
func (a *account) matters(n uint64) bool {
	whole := plus(a.tls, a.quic)
	return n >= fewBytes && n >= whole/1000
}

// coverageStage is the stage of Health.counts that holds an agent's totals: rows are bounded, totals are not.
const coverageStage = "coverage"

// totals are an agent's; of one that counts none, the sums of its rows.
func totals(h *v1.Health) (sum account) {
	told := false
	for _, c := range h.GetCounts() {
		if to := sum.named(c); to != nil {
			*to, told = plus(*to, c.GetValue()), true
		}
	}
	if told {
		return sum
	}
	for _, c := range h.GetCoverage() {
		sum.add(c)
	}
	return sum
}

// named is where a count of bytes of the coverage stage belongs.
func (a *account) named(c *v1.Count) *uint64 {
	if !ofCoverage(c) {
		return nil
	}
	switch c.GetName() {
	case "tls_bytes":
		return &a.tls
	case "decoded_bytes":
		return &a.decoded
	case "unbound_bytes":
		return &a.unbound
	case "quic_bytes":
		return &a.quic
	}
	return nil
}

func ofCoverage(c *v1.Count) bool { return c.GetStage() == coverageStage }

// coverageText is the line of an agent in a status: its totals, then what else it counts of its processes.
func coverageText(h *v1.Health) string {
	sum := totals(h)
	text := "no TLS seen"
	if sum.tls > 0 {
		text = fmt.Sprintf("%s of %s of TLS decoded, %s", size(min(sum.decoded, sum.tls)), size(sum.tls), sum.share())
	}
	text += fmt.Sprintf("; %s unbound; %s of QUIC", size(sum.unbound), size(sum.quic))
	for _, c := range h.GetCounts() {
		if ofCoverage(c) && sum.named(c) == nil && c.GetValue() > 0 {
			text += fmt.Sprintf("; %s %d", c.GetName(), c.GetValue())
		}
	}
	return text
}

// share is the decoded part of the TLS bytes, rounded down: it never says all where it is not.
func (a *account) share() string {
	if a.tls == 0 {
		return "-"
	}
	if a.decoded >= a.tls {
		return "100%"
	}
	// Below tls, so that the quotient is below 1,000 and fits.
	hi, lo := bits.Mul64(a.decoded, 1000)
	thousandths, _ := bits.Div64(hi, lo, a.tls)
	return percent(thousandths, a.decoded > 0)
}

// shareOf prints a coverage of the inventory, rounded down.
func shareOf(v *float64) string {
	switch {
	case v == nil || !(*v >= 0):
		return "?"
	case *v >= 1:
		return "100%"
	}
	// A multiple of 0.001 may lie a hair below itself in binary.
	return percent(min(999, uint64(*v*1000+1e-9)), *v > 0)
}

func percent(thousandths uint64, some bool) string {
	switch {
	case thousandths > 0:
		return fmt.Sprintf("%d.%d%%", thousandths/10, thousandths%10)
	case some:
		return "<0.1%"
	}
	return "0%"
}

// shareCell points out what is not whole.
func shareCell(text string) cell {
	switch text {
	case "100%":
		return cell{text, green}
	case "-", "?":
		return cell{text, faint}
	}
	return cell{text, yellow}
}

// workload is the processes of one container of a node, else those of one name.
type workload struct {
	node, container, pod string
	account              // of all its processes that are told of
	processes            int
	gaps                 []*gap // at least one, most missing bytes first
}

// gap is the processes of a workload that have one name and miss something for one reason.
type gap struct {
	process, reason string
	pids            []uint32
	account
}

// workloads lists those of which something is not seen, most missing bytes first.
func workloads(agents []*v1.Agent) []*workload {
	type key struct{ node, container, process string }
	all := map[key]*workload{}
	for _, a := range agents {
		for _, c := range a.GetHealth().GetCoverage() {
			k := key{a.GetNode(), c.GetContainer(), c.GetProcess()}
			if k.container != "" {
				k.process = ""
			}
			w := all[k]
			if w == nil {
				w = &workload{node: k.node, container: k.container}
				all[k] = w
			}
			w.pod = cmp.Or(w.pod, c.GetPodUid())
			w.add(c)
			w.processes++
			w.note(c)
		}
	}
	var list []*workload
	for _, w := range all {
		if len(w.gaps) == 0 {
			continue
		}
		slices.SortFunc(w.gaps, func(a, b *gap) int {
			return cmp.Or(a.heavier(&b.account), cmp.Compare(a.process, b.process), cmp.Compare(a.reason, b.reason))
		})
		list = append(list, w)
	}
	slices.SortFunc(list, func(a, b *workload) int {
		return cmp.Or(a.heavier(&b.account), cmp.Compare(a.node, b.node), cmp.Compare(a.container, b.container),
			cmp.Compare(a.gaps[0].process, b.gaps[0].process))
	})
	return list
}

// heavier orders the one that misses more first.
func (a *account) heavier(b *account) int {
	return cmp.Or(cmp.Compare(b.missing(), a.missing()), cmp.Compare(b.tls, a.tls))
}

// note takes a process into the gaps, if it is one.
func (w *workload) note(c *v1.Coverage) {
	var one account
	if one.add(c); c.GetReason() == "" && !one.gap() {
		return
	}
	i := slices.IndexFunc(w.gaps, func(g *gap) bool { return g.process == c.GetProcess() && g.reason == c.GetReason() })
	if i < 0 {
		i = len(w.gaps)
		w.gaps = append(w.gaps, &gap{process: c.GetProcess(), reason: c.GetReason()})
	}
	g := w.gaps[i]
	g.add(c)
	g.pids = append(g.pids, c.GetPid())
}

// name is what people call it: "nginx", "nginx php-fpm (container 3f2a9c1d0b7e, pod 8c1b5a7e)".
func (w *workload) name() string {
	var processes []string
	for _, g := range w.gaps {
		if p := orDash(g.process); !slices.Contains(processes, p) {
			processes = append(processes, p)
		}
	}
	name := some(processes, 2)
	if w.container == "" {
		return name
	}
	where := "container " + head(w.container, 12)
	if w.pod != "" {
		where += ", pod " + head(w.pod, 8)
	}
	return name + " (" + where + ")"
}

// why says what is missing and, where one is known, the reason.
func (g *gap) why() string {
	var parts []string
	switch {
	case g.reason != "":
		parts = append(parts, g.reason)
	case g.missing() > 0:
		parts = append(parts, "the agent names no reason")
	}
	if g.quic > 0 {
		parts = append(parts, size(g.quic)+" of QUIC")
	}
	if g.unbound > 0 {
		parts = append(parts, size(g.unbound)+" decoded without a known peer")
	}
	if g.lost > 0 {
		parts = append(parts, fmt.Sprintf("%d of %s lost", g.lost, plural(plus(g.calls, g.lost), "call")))
	}
	return strings.Join(parts, "; ")
}

func pids(list []uint32) string {
	texts := make([]string, len(list))
	for i, pid := range list {
		texts[i] = number(uint64(pid))
	}
	return some(texts, 3)
}

// some joins the first few: "7 8 9 +12".
func some(list []string, n int) string {
	if len(list) <= n {
		return strings.Join(list, " ")
	}
	return strings.Join(list[:n], " ") + fmt.Sprintf(" +%d", len(list)-n)
}

func head(s string, bytes int) string { return s[:min(bytes, len(s))] }
