package cli

import (
	"cmp"
	"context"
	"slices"

	"github.com/spf13/cobra"

	v1 "github.com/spile/spile/proto/spile/v1"
)

func findingsVerb(w World) *cobra.Command {
	var at where
	var out output
	var follow bool
	var service, rule string
	cmd := &cobra.Command{
		Use: "findings", Short: "List findings, gravest first", Args: cobra.NoArgs,
		Long:    "List findings, gravest first; with -f in the order in which they appear or change.",
		Example: "  spile findings\n  spile findings -f -o json >> findings.jsonl",
	}
	at.flags(cmd.Flags(), w)
	out.flags(cmd.Flags())
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new and changed findings")
	cmd.Flags().StringVar(&service, "service", "", "only this service")
	cmd.Flags().StringVar(&rule, "rule", "", "only this rule")
	cmd.RunE = Do(func(ctx context.Context, _ []string) error {
		if follow {
			return watchFindings(ctx, w, at, out, &v1.WatchFindingsRequest{Service: service, Rule: rule})
		}
		return list(ctx, w, at, out, "no finding",
			func(ctx context.Context, c *client, token string) ([]*v1.Finding, string, error) {
				res, err := v1.NewFindingsClient(c).ListFindings(ctx, &v1.ListFindingsRequest{
					Service: service, Rule: rule, PageSize: pageSize, PageToken: token})
				return res.GetFindings(), res.GetNextPageToken(), err
			}, func(items []*v1.Finding) error { return PrintFindings(w, items) })
	})
	return cmd
}

func watchFindings(ctx context.Context, w World, at where, out output, req *v1.WatchFindingsRequest) error {
	asJSON, err := out.json()
	if err != nil {
		return err
	}
	c, err := at.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	stream, err := v1.NewFindingsClient(c).WatchFindings(c.stream(ctx), req)
	if err != nil {
		return c.explain(ctx, err)
	}
	t := NewFindingTable(w, true)
	for {
		f, err := stream.Recv()
		if err != nil {
			return c.explain(ctx, err)
		}
		if asJSON {
			err = printLines(w.Stdout, f)
		} else {
			err = t.Add(f)
		}
		if err != nil {
			return err
		}
	}
}

// FindingTable prints findings, one line each.
type FindingTable struct {
	table *Table
	world World
}

// NewFindingTable makes a table of findings; a live one prints each at once.
func NewFindingTable(w World, live bool) *FindingTable {
	return &FindingTable{NewTable(w, live,
		Column{Head: "SEVERITY", Min: 8}, Column{Head: "RULE", Min: 24, Max: 40}, Column{Head: "SERVICE", Min: 16, Max: 32},
		Column{Head: "METHOD", Min: 6, Max: 8}, Column{Head: "ROUTE", Min: 20, Max: 48}, Column{Head: "COUNT", Right: true},
		Column{Head: "LAST SEEN", Min: 9}, Column{Head: "WHAT"}), w}
}

// Add prints one finding.
func (t *FindingTable) Add(f *v1.Finding) error {
	severity := f.GetSeverity()
	title := f.GetTitle()
	if f.GetScope() != "" {
		title += " (" + f.GetScope() + ")"
	}
	if f.GetState() == "closed" {
		title += " (closed)"
	}
	return t.table.Add(Cell{severity, SeverityStyle(severity)}, Text(f.GetRule()), Text(f.GetService()), Text(orDash(f.GetMethod())),
		Cell{orDash(f.GetRoute()), Bold}, Text(number(f.GetCount())), Text(ago(t.world.Now(), f.GetLastSeen())), Text(title))
}

// Flush prints what waits.
func (t *FindingTable) Flush() error { return t.table.Flush() }

// PrintFindings prints a table of findings, gravest first.
func PrintFindings(w World, items []*v1.Finding) error {
	items = slices.Clone(items)
	slices.SortStableFunc(items, func(a, b *v1.Finding) int {
		return cmp.Or(-cmp.Compare(grave(a.GetSeverity()), grave(b.GetSeverity())), b.GetLastSeen().AsTime().Compare(a.GetLastSeen().AsTime()))
	})
	t := NewFindingTable(w, false)
	for _, f := range items {
		if err := t.Add(f); err != nil {
			return err
		}
	}
	return t.Flush()
}

func grave(severity string) int {
	return slices.Index([]string{"info", "low", "medium", "high", "critical"}, severity)
}

// SeverityStyle is how a severity looks.
func SeverityStyle(severity string) Style {
	switch {
	case grave(severity) >= grave("high"):
		return Red
	case severity == "medium":
		return Yellow
	}
	return Plain
}
