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
		Example: "  spile agents\n  spile agents -o json | jq '.health.uncovered'",
	}
	at.flags(cmd.Flags(), w)
	out.flags(cmd.Flags())
	cmd.RunE = Do(func(ctx context.Context, _ []string) error {
		return list(ctx, w, at, out, "no agent has ever connected",
			func(ctx context.Context, c *client, _ string) ([]*v1.Agent, string, error) {
				res, err := v1.NewAgentsClient(c).ListAgents(ctx, &v1.ListAgentsRequest{})
				return res.GetAgents(), "", err
			}, func(items []*v1.Agent) error { return printAgents(w, items) })
	})
	return cmd
}

func printAgents(w World, items []*v1.Agent) error {
	t := NewTable(w, false, Column{Head: "NODE", Max: 32}, Column{Head: "STATE"}, Column{Head: "LAST SEEN"}, Column{Head: "CALLS", Right: true},
		Column{Head: "REFUSED", Right: true}, Column{Head: "LOST", Right: true}, Column{Head: "CLOCK", Right: true}, Column{Head: "PROBES", Right: true},
		Column{Head: "UNCOVERED", Right: true}, Column{Head: "VERSION"}, Column{Head: "KERNEL"})
	now := w.Now()
	for _, a := range items {
		state := Cell{"connected", Green}
		if !a.GetConnected() {
			state = Cell{"away", Red}
		}
		h := a.GetHealth()
		if err := t.Add(Cell{a.GetNode(), Bold}, state, Text(ago(now, a.GetLastSeen())), Text(number(a.GetCalls())), Text(number(a.GetRefused())),
			lostCell(h), skewCell(a.GetSkewSeconds()), Text(fmt.Sprintf("%d/%d", attached(h), len(h.GetProbes()))),
			countCell(len(h.GetUncovered())), Text(orDash(h.GetVersion())), Text(orDash(h.GetKernel()))); err != nil {
			return err
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printTrouble(w, items)
}

// printTrouble says what agents cannot see, and why.
func printTrouble(w World, items []*v1.Agent) error {
	t := NewTable(w, false, Column{Head: "NODE", Max: 32}, Column{Head: "NOT SEEN", Max: 48}, Column{Head: "WHY"})
	n := 0
	for _, a := range items {
		for _, p := range a.GetHealth().GetProbes() {
			if p.GetReason() == "" {
				continue
			}
			n++
			if err := t.Add(Text(a.GetNode()), Text(p.GetLibrary()+" "+p.GetPath()), Text(p.GetReason())); err != nil {
				return err
			}
		}
		for _, u := range a.GetHealth().GetUncovered() {
			n++
			if err := t.Add(Text(a.GetNode()), Text(UncoveredName(u)), Text(u.GetReason())); err != nil {
				return err
			}
		}
	}
	if n == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(w.Stdout); err != nil {
		return err
	}
	return t.Flush()
}

// UncoveredName names a process whose TLS is not decoded.
func UncoveredName(u *v1.Uncovered) string {
	name := fmt.Sprintf("%s (pid %d)", orDash(u.GetProcess()), u.GetPid())
	if u.GetTlsBytes() > 0 {
		name += ", " + size(u.GetTlsBytes()) + " of TLS"
	}
	return name
}

func attached(h *v1.Health) int {
	n := 0
	for _, p := range h.GetProbes() {
		if p.GetState() == "attached" {
			n++
		}
	}
	return n
}

func lostCell(h *v1.Health) Cell {
	var lost uint64
	for _, c := range h.GetCounts() {
		if c.GetLost() {
			lost += c.GetValue()
		}
	}
	if lost > 0 {
		return Cell{number(lost), Yellow}
	}
	return Text("0")
}

func skewCell(seconds float64) Cell {
	c := Cell{Text: fmt.Sprintf("%+.1fs", seconds)}
	if math.Abs(seconds) > maxSkewSeconds {
		c.Style = Red
	}
	return c
}

func countCell(n int) Cell {
	if n > 0 {
		return Cell{number(uint64(n)), Yellow}
	}
	return Text("0")
}

// Rungs prints hook ladders with the rung in use: "socket=tp_btf uprobe=uprobe_multi".
func Rungs(h *v1.Health) string {
	var parts []string
	for _, ladder := range slices.Sorted(maps.Keys(h.GetRungs())) {
		parts = append(parts, ladder+"="+h.GetRungs()[ladder])
	}
	return orDash(strings.Join(parts, " "))
}

// Targets prints what is watched.
func Targets(h *v1.Health) string {
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
		return list(ctx, w, at, out, "no sink is configured (spile collector --sink kind=file,format=ocsf,path=FILE)",
			func(ctx context.Context, c *client, _ string) ([]*v1.Sink, string, error) {
				res, err := v1.NewSinksClient(c).ListSinks(ctx, &v1.ListSinksRequest{})
				return res.GetSinks(), "", err
			}, func(items []*v1.Sink) error { return printSinks(w, items) })
	})
	return cmd
}

func printSinks(w World, items []*v1.Sink) error {
	t := NewTable(w, false, Column{Head: "SINK"}, Column{Head: "KIND"}, Column{Head: "FORMAT"}, Column{Head: "DELIVERED", Right: true},
		Column{Head: "BACKLOG", Right: true}, Column{Head: "ERRORS", Right: true}, Column{Head: "LAST ERROR"})
	for _, s := range items {
		if err := t.Add(Cell{s.GetName(), Bold}, Text(s.GetKind()), Text(s.GetFormat()), Text(number(s.GetDelivered())),
			Text(number(s.GetBacklog())), countCell(int(min(s.GetErrors(), math.MaxInt32))), Text(orDash(s.GetLastError()))); err != nil {
			return err
		}
	}
	return t.Flush()
}
