package cli

import (
	"fmt"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	// maxWorkloads and maxGaps bound what a person is shown; -o json has all.
	maxWorkloads = 20
	maxGaps      = 5
)

// printTrouble says what agents cannot see, and why: builds that are denied, files whose probes failed or were taken out, cgroups of which the kernel
// dropped something, then workloads that are not wholly decoded.
func printTrouble(w World, agents []*v1.Agent) error {
	if err := printDenials(w, agents); err != nil {
		return err
	}
	if err := printProbes(w, agents); err != nil {
		return err
	}
	if err := printLosers(w, agents); err != nil {
		return err
	}
	return printGaps(w, agents)
}

// printGaps prints one row for each workload, and rows below it where its processes miss something for different reasons.
func printGaps(w World, agents []*v1.Agent) error {
	list := workloads(agents)
	if len(list) == 0 {
		return nil
	}
	columns := []column{{head: "WORKLOAD", max: 40}, {head: "PID"}, {head: "TLS BYTES", right: true}, {head: "DECODED", right: true},
		{head: "SHARE", right: true}, {head: "WHY", wraps: true}}
	if len(agents) > 1 {
		columns = append([]column{{head: "NODE", max: 32}}, columns...)
	}
	t := newTable(w, false, columns...)
	row := func(node, name, pids string, a *account, why string) error {
		cells := []cell{{name, bold}, text(pids), text(size(a.tls)), text(size(min(a.decoded, a.tls))), shareCell(a.share()), text(why)}
		if len(agents) > 1 {
			cells = append([]cell{text(node)}, cells...)
		}
		return t.Add(cells...)
	}
	var rest account
	for i, l := range list {
		if i >= maxWorkloads {
			rest.tls, rest.decoded, rest.quic = plus(rest.tls, l.tls), plus(rest.decoded, min(l.decoded, l.tls)), plus(rest.quic, l.quic)
			continue
		}
		if len(l.gaps) == 1 {
			if err := row(l.node, l.name(), pids(l.gaps[0].pids), &l.account, join(": ", l.part(), l.gaps[0].why())); err != nil {
				return err
			}
			continue
		}
		if err := row(l.node, l.name(), "", &l.account, join(", ", l.part(), plural(uint64(len(l.gaps)), "reason")+":")); err != nil {
			return err
		}
		for k, g := range l.gaps {
			if k == maxGaps {
				if err := t.Add(l.more(len(agents) > 1)...); err != nil {
					return err
				}
				break
			}
			if err := row(l.node, "  "+orDash(g.process), pids(g.pids), &g.account, g.why()); err != nil {
				return err
			}
		}
	}
	if _, err := fmt.Fprintln(w.Stdout); err != nil {
		return err
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if n := len(list) - maxWorkloads; n > 0 {
		_, err := fmt.Fprintf(w.Stdout, "… and %s, %s not decoded (spile agents -o json shows all)\n", plural(uint64(n), "more workload"), size(rest.missing()))
		return err
	}
	return nil
}

// part says how many processes of the workload its gaps are, where it is not all of them.
func (w *workload) part() string {
	n := 0
	for _, g := range w.gaps {
		n += len(g.pids)
	}
	if n == w.processes {
		return ""
	}
	return fmt.Sprintf("%d of %d processes", n, w.processes)
}

func join(between, a, b string) string {
	if a == "" {
		return b
	}
	return a + between + b
}

// more is the row in place of the reasons that are not shown.
func (w *workload) more(node bool) []cell {
	cells := []cell{text("  …"), {}, {}, {}, {}, text(plural(uint64(len(w.gaps)-maxGaps), "more reason"))}
	if node {
		cells = append([]cell{text(w.node)}, cells...)
	}
	return cells
}

// tellGaps calls tell for each gap: what is not decoded and why, with a key that stays while figures and processes change.
func tellGaps(a *v1.Agent, tell func(key, text string) error) error {
	for _, l := range workloads([]*v1.Agent{a}) {
		for _, g := range l.gaps {
			if g.reason == "" {
				continue
			}
			one := workload{container: l.container, pod: l.pod, gaps: []*gap{g}}
			name := one.name()
			if err := tell(name+"\x00"+g.reason, fmt.Sprintf("not decoded: %s (pid %s): %s", name, pids(g.pids), g.reason)); err != nil {
				return err
			}
		}
	}
	return nil
}
