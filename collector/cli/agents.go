package cli

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// maxSkewSeconds is how far an agent's clock may be off before it is pointed out.
const maxSkewSeconds = 2

func agentsVerb(w World) *cobra.Command {
	var at where
	var out output
	cmd := &cobra.Command{
		Use: "agents", Short: "List agents: coverage, loss, probes, clocks", Args: cobra.NoArgs,
		Example: "  spile agents\n  spile agents -o json | jq '.health.coverage[] | select(.reason)'",
	}
	at.flags(cmd.Flags(), w)
	out.flags(cmd.Flags())
	cmd.RunE = Do(func(ctx context.Context, _ []string) error {
		return list(ctx, w, at, out, "no agent has ever connected",
			askAgents, func(items []*v1.Agent) error { return printAgents(w, items) })
	})
	return cmd
}

func askAgents(ctx context.Context, c *client, token string) ([]*v1.Agent, string, error) {
	res, err := v1.NewAgentsClient(c).ListAgents(ctx, &v1.ListAgentsRequest{PageSize: pageSize, PageToken: token})
	return res.GetAgents(), res.GetNextPageToken(), err
}

// everyAgent asks for all pages.
func everyAgent(ctx context.Context, c *client) ([]*v1.Agent, error) {
	return pages(ctx, c, func(ctx context.Context, token string) ([]*v1.Agent, string, error) { return askAgents(ctx, c, token) })
}

func printAgents(w World, items []*v1.Agent) error {
	t := newTable(w, false, column{head: "NODE", max: 32}, column{head: "STATE"}, column{head: "LAST SEEN"}, column{head: "CALLS", right: true},
		column{head: "REFUSED", right: true}, column{head: "LOST", right: true}, column{head: "CLOCK", right: true}, column{head: "PROBES", right: true},
		column{head: "COVERAGE", right: true}, column{head: "UNCOVERED", right: true}, column{head: "VERSION"}, column{head: "KERNEL"})
	now := w.Now()
	for _, a := range items {
		state := cell{"connected", green}
		if !a.GetConnected() {
			state = cell{"away", red}
		}
		h := a.GetHealth()
		sum := totals(h)
		if err := t.Add(cell{a.GetNode(), bold}, state, text(ago(now, a.GetLastSeen())), text(number(a.GetCalls())), text(number(a.GetRefused())),
			lostCell(h), skewCell(a.GetSkewSeconds()), text(probesShort(h)),
			shareCell(sum.share()), countCell(uncovered(h)), text(orDash(h.GetVersion())), text(orDash(h.GetKernel()))); err != nil {
			return err
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printTrouble(w, items)
}

// probesShort is how many files are attached of those that the report had room for, and how many more there are.
func probesShort(h *v1.Health) string {
	text := fmt.Sprintf("%d/%d", attached(h), len(h.GetProbes()))
	if n := h.GetOmitted()["probes"]; n > 0 {
		text += fmt.Sprintf("+%d", n)
	}
	return text
}

// uncovered counts the processes of which something is not seen.
func uncovered(h *v1.Health) int {
	n := 0
	for _, w := range workloads([]*v1.Agent{{Health: h}}) {
		for _, g := range w.gaps {
			n += len(g.pids)
		}
	}
	return n
}

func attached(h *v1.Health) int {
	n := 0
	for _, p := range h.GetProbes() {
		if isAttached(p) {
			n++
		}
	}
	return n
}

// isAttached holds for a draining one, too: its last user has gone, and the next may come.
func isAttached(p *v1.Probe) bool { return p.GetState() == "attached" || p.GetState() == "draining" }

func lostCell(h *v1.Health) cell {
	var lost uint64
	for _, c := range h.GetCounts() {
		// What processes are not covered for has a column of its own.
		if c.GetLost() && c.GetStage() != coverageStage {
			lost += c.GetValue()
		}
	}
	if lost > 0 {
		return cell{number(lost), yellow}
	}
	return text("0")
}

func skewCell(seconds float64) cell {
	c := cell{text: fmt.Sprintf("%+.1fs", seconds)}
	if math.Abs(seconds) > maxSkewSeconds {
		c.style = red
	}
	return c
}

func countCell(n int) cell {
	if n > 0 {
		return cell{number(uint64(n)), yellow}
	}
	return text("0")
}

// rungs prints hook ladders with the rung in use: "socket=tp_btf uprobe=uprobe_multi".
func rungs(h *v1.Health) string {
	var parts []string
	for _, ladder := range slices.Sorted(maps.Keys(h.GetRungs())) {
		parts = append(parts, ladder+"="+h.GetRungs()[ladder])
	}
	return orDash(strings.Join(parts, " "))
}

// targets prints what is watched.
func targets(h *v1.Health) string {
	if len(h.GetTargets()) == 0 {
		return "everything"
	}
	return strings.Join(h.GetTargets(), " ")
}

func sinksVerb(w World) *cobra.Command {
	var at where
	var out output
	cmd := &cobra.Command{
		Use: "sinks", Short: "List where findings are delivered to", Args: cobra.NoArgs,
		Example: "  spile sinks",
	}
	at.flags(cmd.Flags(), w)
	out.flags(cmd.Flags())
	cmd.RunE = Do(func(ctx context.Context, _ []string) error {
		return list(ctx, w, at, out, "no sink is configured (spile collector --sink file,format=ocsf,path=FILE)",
			func(ctx context.Context, c *client, _ string) ([]*v1.Sink, string, error) {
				res, err := v1.NewSinksClient(c).ListSinks(ctx, &v1.ListSinksRequest{})
				return res.GetSinks(), "", err
			}, func(items []*v1.Sink) error { return printSinks(w, items) })
	})
	return cmd
}

func printSinks(w World, items []*v1.Sink) error {
	t := newTable(w, false, column{head: "SINK"}, column{head: "KIND"}, column{head: "FORMAT"}, column{head: "DELIVERED", right: true},
		column{head: "BACKLOG", right: true}, column{head: "ERRORS", right: true}, column{head: "LAST ERROR"})
	for _, s := range items {
		if err := t.Add(cell{s.GetName(), bold}, text(s.GetKind()), text(s.GetFormat()), text(number(s.GetDelivered())),
			text(number(s.GetBacklog())), countCell(int(min(s.GetErrors(), math.MaxInt32))), text(orDash(s.GetLastError()))); err != nil {
			return err
		}
	}
	return t.Flush()
}
