package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const pageSize = 1000

func servicesVerb(w World) *cobra.Command {
	var at where
	var out output
	cmd := &cobra.Command{
		Use: "services", Short: "List the services that were called", Args: cobra.NoArgs,
		Example: "  spile services\n  spile services -o json | jq -r .name",
	}
	at.flags(cmd.Flags(), w)
	out.flags(cmd.Flags())
	cmd.RunE = Do(func(ctx context.Context, _ []string) error {
		return list(ctx, w, at, out, "no service yet: the first call makes one (spile status says what is watched)",
			func(ctx context.Context, c *client, token string) ([]*v1.Service, string, error) {
				res, err := v1.NewInventoryClient(c).ListServices(ctx, &v1.ListServicesRequest{PageSize: pageSize, PageToken: token})
				return res.GetServices(), res.GetNextPageToken(), err
			}, func(items []*v1.Service) error { return printServices(w, items) })
	})
	return cmd
}

func endpointsVerb(w World) *cobra.Command {
	var at where
	var out output
	var service string
	var all bool
	cmd := &cobra.Command{
		Use: "endpoints", Short: "List endpoints: service, method and route", Args: cobra.NoArgs,
		Long: "List endpoints: service, method and route. Paths that were only ever answered \"no such thing\"\n" +
			"are candidates and shown with --all. In CALLS, (N client) says how often only the client's end\n" +
			"was seen. COVERAGE is how much of the serving process's traffic was seen at the newest call,\n" +
			"rounded down: the decoded share of its TLS bytes times the share of its calls that were not\n" +
			"lost; ? = unknown.",
		Example: "  spile endpoints --service shop.example\n  spile endpoints -o json | jq -r 'select(.auth.none) | .route'",
	}
	at.flags(cmd.Flags(), w)
	out.flags(cmd.Flags())
	cmd.Flags().StringVar(&service, "service", "", "only this service")
	cmd.Flags().BoolVar(&all, "all", false, "candidates too")
	cmd.RunE = Do(func(ctx context.Context, _ []string) error {
		return list(ctx, w, at, out, "no endpoint yet (spile status says what is watched; --all shows candidates)",
			func(ctx context.Context, c *client, token string) ([]*v1.Endpoint, string, error) {
				res, err := v1.NewInventoryClient(c).ListEndpoints(ctx, &v1.ListEndpointsRequest{
					Service: service, Candidates: all, PageSize: pageSize, PageToken: token})
				return res.GetEndpoints(), res.GetNextPageToken(), err
			}, func(items []*v1.Endpoint) error { return printEndpoints(w, items) })
	})
	return cmd
}

// list is what all listing verbs do: ask, then print a table or lines. An empty table says on Stderr why it may be so.
func list[M proto.Message](ctx context.Context, w World, at where, out output, empty string,
	ask func(context.Context, *client, string) ([]M, string, error), table func([]M) error) error {
	asJSON, err := out.json()
	if err != nil {
		return err
	}
	c, err := at.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	items, err := pages(ctx, c, func(ctx context.Context, token string) ([]M, string, error) { return ask(ctx, c, token) })
	if err != nil {
		return err
	}
	if asJSON {
		return printLines(w.Stdout, items...)
	}
	if len(items) == 0 {
		_, err := fmt.Fprintln(w.Stderr, "spile: "+empty)
		return err
	}
	return table(items)
}

func printServices(w World, items []*v1.Service) error {
	t := newTable(w, false, column{head: "SERVICE", max: 48}, column{head: "CALLS", right: true},
		column{head: "ENDPOINTS", right: true}, column{head: "COVERAGE", right: true}, column{head: "PROTOCOLS"}, column{head: "LAST SEEN"}, column{head: "PROCESSES", max: 32}, column{head: "DATA"})
	now := w.Now()
	for _, s := range items {
		if err := t.Add(cell{s.GetName(), bold}, text(callCount(s.GetCalls(), s.GetClientCalls())), text(number(uint64(s.GetEndpoints()))),
			shareCell(shareOf(s.Coverage)),
			text(strings.Join(s.GetProtocols(), " ")), text(ago(now, s.GetLastSeen())), text(orDash(strings.Join(s.GetProcesses(), " "))),
			cell{orDash(strings.Join(s.GetDataClasses(), " ")), dataStyle(s.GetDataClasses())}); err != nil {
			return err
		}
	}
	return t.Flush()
}

// printEndpoints prints a table of endpoints.
func printEndpoints(w World, items []*v1.Endpoint) error {
	t := newTable(w, false, column{head: "SERVICE", max: 40}, column{head: "METHOD"}, column{head: "ROUTE", max: 64}, column{head: "CALLS", right: true},
		column{head: "STATUS", max: 32}, column{head: "AUTH", max: 32}, column{head: "DATA", max: 24}, column{head: "STATE"},
		column{head: "COVERAGE", right: true}, column{head: "CALLERS"})
	for _, e := range items {
		if err := t.Add(text(e.GetService()), text(e.GetMethod()), cell{e.GetRoute(), bold}, text(callCount(e.GetCalls(), e.GetClientCalls())), text(statusCounts(e.GetStatuses())),
			text(orDash(tally(e.GetAuth()))), cell{orDash(strings.Join(e.GetDataClasses(), " ")), dataStyle(e.GetDataClasses())},
			cell{e.GetState(), faint}, shareCell(shareOf(e.Coverage)), text(orDash(strings.Join(e.GetCallers(), " ")))); err != nil {
			return err
		}
	}
	return t.Flush()
}

// callCount prints calls, and how many sightings had no server's end: "1 (1 client)". They are among the calls where nobody
// watches the server, and beside them where its end tells of the call too, so the two are never added.
func callCount(calls, client uint64) string {
	if client == 0 {
		return number(calls)
	}
	return number(calls) + " (" + number(client) + " client)"
}

func dataStyle(classes []string) style {
	if len(classes) > 0 {
		return yellow
	}
	return faint
}
