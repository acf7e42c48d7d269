package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// Replayed is what a replay of calls found.
type Replayed struct {
	Calls     []*v1.Call
	Endpoints []*v1.Endpoint
	Findings  []*v1.Finding
}

// ReplayVerb makes `replay`, which needs no collector: replay reads the files ("-" is Stdin) as JSON lines.
func ReplayVerb(w World, replay func(ctx context.Context, files []string) (Replayed, error)) *cobra.Command {
	var out output
	var calls, endpoints, findings bool
	cmd := &cobra.Command{
		Use: "replay FILE...", Short: "Find routes, endpoints and findings in recorded calls, offline",
		Long: "Find routes, endpoints and findings in recorded calls (JSON lines; - is standard input), offline\n" +
			"and by the time in them: the same input gives the same output.",
		Example: "  spile replay calls.jsonl                   the findings\n" +
			"  spile calls --since 1h -o json | spile replay - --endpoints",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return Usage("replay: name a file, or - for standard input")
			}
			return nil
		},
	}
	out.flags(cmd.Flags())
	cmd.Flags().BoolVar(&calls, "calls", false, "print each call, in the order of the input, with its final route")
	cmd.Flags().BoolVar(&endpoints, "endpoints", false, "print the endpoints")
	cmd.Flags().BoolVar(&findings, "findings", false, "print the findings (default)")
	cmd.MarkFlagsMutuallyExclusive("calls", "endpoints", "findings")
	cmd.RunE = Do(func(ctx context.Context, _ []string) error {
		asJSON, err := out.json()
		if err != nil {
			return err
		}
		r, err := replay(ctx, cmd.Flags().Args())
		if err != nil {
			return err
		}
		switch {
		case calls && asJSON:
			return printLines(w.Stdout, r.Calls...)
		case calls:
			t := newCallTable(w, false)
			for _, c := range r.Calls {
				if err := t.Add(c); err != nil {
					return err
				}
			}
			return t.Flush()
		case endpoints:
			return printed(w, asJSON, r.Endpoints, printEndpoints)
		default:
			return printed(w, asJSON, r.Findings, printFindings)
		}
	})
	return cmd
}

func printed[M proto.Message](w World, asJSON bool, items []M, table func(World, []M) error) error {
	if asJSON {
		return printLines(w.Stdout, items...)
	}
	return table(w, items)
}

// EnrollVerb adds `agents enroll`, which works on the data directory of a collector, running or not.
func EnrollVerb(w World, root *cobra.Command, enroll func(data, node, out string, force bool) error) {
	agents, _, err := root.Find([]string{"agents"})
	if err != nil {
		return
	}
	data, out, force := w.Getenv("SPILE_DATA"), "", false
	cmd := &cobra.Command{
		Use: "enroll NODE", Short: "Write the certificate of an agent on another host",
		Long: "Write ca.crt, agent.crt and agent.key for an agent on another host, signed by the authority in the\n" +
			"collector's data directory. The key is written once and not kept here.\n" +
			"'*' in place of NODE makes a certificate that may speak for any node, for agents that share one\n" +
			"secret (a DaemonSet); each says its name with --node. Whoever holds it can pass as every node.",
		Example: "  spile agents enroll node-7 --data /var/lib/spile --out ./node-7\n" +
			"  spile-agent --collector HOST:7741 --ca ca.crt --cert agent.crt --key agent.key",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return Usage("agents enroll: name one node")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&data, "data", data, "data directory of the collector (default /var/lib/spile)")
	cmd.Flags().BoolVar(&force, "force", false, "replace a key that is there already")
	cmd.Flags().StringVar(&out, "out", "", "directory to write to; it is made with mode 0700")
	cmd.RunE = Do(func(_ context.Context, args []string) error {
		if out == "" {
			return Usage("agents enroll: say where to write to with --out DIR")
		}
		if err := enroll(data, cmd.Flags().Arg(0), out, force); err != nil {
			return err
		}
		whose := "node " + Clean(cmd.Flags().Arg(0))
		if cmd.Flags().Arg(0) == "*" {
			whose = "any node"
		}
		_, err := fmt.Fprintf(w.Stdout, "wrote ca.crt, agent.crt and agent.key for %s to %s\n", whose, Clean(out))
		return err
	})
	agents.AddCommand(cmd)
}
