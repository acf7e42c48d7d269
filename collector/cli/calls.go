package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	defaultLast       = 50
	defaultLastFollow = 10
	maxLast           = 10_000
)

type callsFlags struct {
	where
	output
	follow       bool
	since, until string
	last         lastCalls
	filter       v1.CallFilter
	status       string
	not          []string
}

func callsVerb(w World) *cobra.Command {
	f := &callsFlags{}
	cmd := &cobra.Command{
		Use: "calls", Short: "Show calls, past and as they happen", Args: cobra.NoArgs,
		Long: "Show calls, past and as they happen. Without --since, --until or --last: the newest 50.\n" +
			"A filter may end in *; different filters must all match.",
		Example: "  spile calls -f                          as they happen\n" +
			"  spile calls --since 5m --status 5xx     what failed in the last five minutes\n" +
			"  spile calls --route '/users/*' --not process=curl -o json",
	}
	flags := cmd.Flags()
	f.where.flags(flags, w)
	f.output.flags(flags)
	flags.BoolVarP(&f.follow, "follow", "f", false, "go on with new calls")
	flags.StringVar(&f.since, "since", "", "from this long ago (5m) or this time (RFC 3339) on")
	flags.StringVar(&f.until, "until", "", "up to this long ago or this time")
	flags.VarP(&f.last, "last", "n", "only the newest `N`, at most 10000")
	flags.StringVar(&f.filter.Service, "service", "", "service")
	flags.StringVar(&f.filter.Method, "method", "", "method")
	flags.StringVar(&f.filter.Route, "route", "", "route, as the verb endpoints shows it")
	flags.StringVar(&f.filter.Path, "path", "", "path")
	flags.StringVar(&f.status, "status", "", "status: 404 or 4xx")
	flags.StringVar(&f.filter.Protocol, "protocol", "", "protocol: http/1.1, http/2")
	flags.StringVar(&f.filter.Process, "process", "", "process at either end")
	flags.StringVar(&f.filter.Principal, "principal", "", "principal (keyed hash)")
	flags.StringVar(&f.filter.DataClass, "class", "", "data class in request or response: email, card, ...")
	flags.StringArrayVar(&f.not, "not", nil, "leave out FILTER=VALUE, for example service=metrics*")
	cmd.RunE = Do(func(ctx context.Context, _ []string) error { return f.run(ctx, w) })
	return cmd
}

func (f *callsFlags) run(ctx context.Context, w World) error {
	asJSON, err := f.json()
	if err != nil {
		return err
	}
	req, err := f.request(w.Now())
	if err != nil {
		return err
	}
	c, err := f.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	stream, err := v1.NewEventsClient(c).GetEvents(c.stream(ctx), req)
	if err != nil {
		return c.explain(ctx, err)
	}
	table, shown := newCallTable(w, f.follow), 0
	for {
		res, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) && shown == 0 && !asJSON {
				_, err := fmt.Fprintln(w.Stderr, "spile: "+f.none())
				return err
			}
			if !asJSON && (errors.Is(err, io.EOF) || ctx.Err() != nil) {
				if err := table.Flush(); err != nil {
					return err
				}
			}
			return c.explain(ctx, err)
		}
		switch of := res.GetOf().(type) {
		case *v1.GetEventsResponse_Lag:
			fmt.Fprintf(w.Stderr, "spile: %s missed: this reader is too slow; narrow it with filters\n", plural(of.Lag.GetMissed(), "call"))
		case *v1.GetEventsResponse_Call:
			shown++
			if asJSON {
				err = printLines(w.Stdout, of.Call)
			} else {
				err = table.Add(of.Call)
			}
			if err != nil {
				return err
			}
		}
	}
}

// none says why there may be nothing to show.
func (f *callsFlags) none() string {
	if f.since != "" || f.until != "" || len(f.not) > 0 || !proto.Equal(&f.filter, &v1.CallFilter{}) {
		return "no such call (spile calls without filters shows the newest of all)"
	}
	return "no call yet (spile status says what is watched)"
}

func (f *callsFlags) request(now time.Time) (*v1.GetEventsRequest, error) {
	req := &v1.GetEventsRequest{Follow: f.follow, Last: uint32(f.last)}
	var err error
	if req.Since, err = moment("--since", f.since, now); err != nil {
		return nil, err
	}
	if req.Until, err = moment("--until", f.until, now); err != nil {
		return nil, err
	}
	switch {
	case f.follow && f.until != "":
		return nil, Usage("--follow and --until exclude each other")
	case f.since != "" && f.until != "" && !req.Since.AsTime().Before(req.Until.AsTime()):
		return nil, Usage("--since %s is not before --until %s: want the older first (--since 2h --until 1m)", f.since, f.until)
	case f.last == 0 && f.since == "" && f.until == "" && f.follow:
		req.Last = defaultLastFollow
	case f.last == 0 && f.since == "" && f.until == "":
		req.Last = defaultLast
	}
	if f.filter.StatusCode, err = statusFilter(f.status); err != nil {
		return nil, err
	}
	req.Allow = []*v1.CallFilter{&f.filter}
	for _, not := range f.not {
		deny, err := denied(not)
		if err != nil {
			return nil, err
		}
		req.Deny = append(req.Deny, deny)
	}
	return req, nil
}

func denied(rule string) (*v1.CallFilter, error) {
	key, value, _ := strings.Cut(rule, "=")
	if value == "" {
		return nil, Usage("--not %q: want FILTER=VALUE, for example service=metrics", rule)
	}
	d := &v1.CallFilter{}
	switch key {
	case "service":
		d.Service = value
	case "method":
		d.Method = value
	case "route":
		d.Route = value
	case "path":
		d.Path = value
	case "protocol":
		d.Protocol = value
	case "process":
		d.Process = value
	case "principal":
		d.Principal = value
	case "class":
		d.DataClass = value
	case "status":
		var err error
		if d.StatusCode, err = statusFilter(value); err != nil {
			return nil, err
		}
	default:
		return nil, Usage("--not %q: no filter is called %q", rule, key)
	}
	return d, nil
}

// lastCalls is how many calls to show; 0 is as many as the verb decides.
type lastCalls uint32

// Set implements pflag.Value.
func (l *lastCalls) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n < 1 || n > maxLast {
		return fmt.Errorf("want a number from 1 to %d; use --since for more", maxLast)
	}
	*l = lastCalls(n)
	return nil
}

// String implements pflag.Value.
func (l *lastCalls) String() string { return strconv.Itoa(int(*l)) }

// Type implements pflag.Value.
func (l *lastCalls) Type() string { return "N" }

// statusFilter reads "404", "4xx" or "4".
func statusFilter(s string) (uint32, error) {
	if s == "" {
		return 0, nil
	}
	digits := strings.TrimSuffix(strings.ToLower(s), "xx")
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || !(n >= 100 && n <= 999 && digits == strings.ToLower(s)) && !(n >= 1 && n <= 5) {
		return 0, Usage("status %q: want a status (404) or a class (4xx)", s)
	}
	return uint32(n), nil
}

// moment reads a duration before now or a time.
func moment(flag, s string, now time.Time) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return timestamppb.New(now.Add(-d)), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return timestamppb.New(t), nil
	}
	return nil, Usage("%s %q: want a duration (5m, 2h) or a time (2006-01-02T15:04:05Z)", flag, s)
}

// callTable prints calls, one line each.
type callTable struct{ table *table }

// newCallTable makes a table of calls; a live one prints each at once.
func newCallTable(w World, live bool) *callTable {
	return &callTable{newTable(w, live,
		column{head: "TIME", min: 12}, column{head: "SOURCE", min: 10, max: 20}, column{head: "SERVICE", min: 16, max: 32},
		column{head: "METHOD", min: 6, max: 8}, column{head: "STATUS", right: true}, column{head: "TOOK", min: 6, right: true},
		column{head: "BYTES", min: 6, right: true}, column{head: "TLS", min: 5, max: 8}, column{head: "SEEN", min: 6}, column{head: "ROUTE"})}
}

// Add prints one call.
func (t *callTable) Add(c *v1.Call) error {
	status := cell{"-", faint}
	if s := c.GetStatusCode(); s != 0 {
		status = cell{strconv.Itoa(int(s)), statusStyle(s)}
	}
	bytes := "-"
	if c.GetResponse() != nil && c.GetResponse().Bytes != nil {
		bytes = size(c.GetResponse().GetBytes())
	}
	return t.table.Add(
		cell{c.GetTime().AsTime().Local().Format("15:04:05.000"), faint},
		text(peerName(c.GetSource())), text(c.GetService()), text(c.GetMethod()), status,
		text(duration(c)), text(bytes), text(tlsName(c)), cell{observedName(c.GetObserved()), faint},
		cell{cmp.Or(c.GetRoute(), c.GetPath()), bold})
}

// Flush prints what waits.
func (t *callTable) Flush() error { return t.table.Flush() }

func duration(c *v1.Call) string {
	if c.GetDuration() == nil {
		return "-"
	}
	return took(c.GetDuration().AsDuration())
}

func peerName(p *v1.Peer) string {
	switch {
	case p.GetWorkload() != "":
		return p.GetWorkload()
	case p.GetProcess() != "":
		return p.GetProcess()
	case p.GetAddress() != "" && p.GetPort() != 0:
		return net.JoinHostPort(p.GetAddress(), strconv.Itoa(int(p.GetPort())))
	}
	return orDash(p.GetAddress())
}

func tlsName(c *v1.Call) string {
	switch {
	case c.GetTls().GetVersion() != "":
		return c.GetTls().GetVersion()
	case c.GetScheme() == "https":
		return "yes"
	case c.GetScheme() == "http":
		return "none"
	}
	return "-"
}

func observedName(o v1.Observed) string {
	if o == v1.Observed_OBSERVED_UNSPECIFIED {
		return "-"
	}
	return strings.ToLower(strings.TrimPrefix(o.String(), "OBSERVED_"))
}

func statusStyle(s uint32) style {
	switch {
	case s >= 500:
		return red
	case s >= 400:
		return yellow
	}
	return green
}
