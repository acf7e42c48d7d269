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
			}, func(items []*v1.Finding) error { return printFindings(w, items) })
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
	next, err := c.findings(ctx, req)
	if err != nil {
		return c.explain(ctx, err)
	}
	t := newFindingTable(w, true)
	for {
		f, err := next()
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

// findingTable prints findings, one line each.
type findingTable struct {
	table *table
	world World
}

// newFindingTable makes a table of findings; a live one prints each at once.
func newFindingTable(w World, live bool) *findingTable {
	return &findingTable{newTable(w, live,
		column{head: "SEVERITY", min: 8}, column{head: "RULE", min: 24, max: 40}, column{head: "SERVICE", min: 16, max: 32},
		column{head: "METHOD", min: 6, max: 8}, column{head: "ROUTE", min: 20, max: 48}, column{head: "COUNT", right: true},
		column{head: "LAST SEEN", min: 9}, column{head: "WHAT"}), w}
}

// Add prints one finding.
func (t *findingTable) Add(f *v1.Finding) error {
	severity := f.GetSeverity()
	title := f.GetTitle()
	if f.GetScope() != "" {
		title += " (" + f.GetScope() + ")"
	}
	if f.GetState() == "closed" {
		title += " (closed)"
	}
	return t.table.Add(cell{severity, severityStyle(severity)}, text(f.GetRule()), text(f.GetService()), text(orDash(f.GetMethod())),
		cell{orDash(f.GetRoute()), bold}, text(number(f.GetCount())), text(ago(t.world.Now(), f.GetLastSeen())), text(title))
}

// Flush prints what waits.
func (t *findingTable) Flush() error { return t.table.Flush() }

// printFindings prints a table of findings, gravest first.
func printFindings(w World, items []*v1.Finding) error {
	items = slices.Clone(items)
	slices.SortStableFunc(items, func(a, b *v1.Finding) int {
		return cmp.Or(-cmp.Compare(grave(a.GetSeverity()), grave(b.GetSeverity())), b.GetLastSeen().AsTime().Compare(a.GetLastSeen().AsTime()))
	})
	t := newFindingTable(w, false)
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

// severityStyle is how a severity looks.
func severityStyle(severity string) style {
	switch {
	case grave(severity) >= grave("high"):
		return red
	case severity == "medium":
		return yellow
	}
	return plain
}
