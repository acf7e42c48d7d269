package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	diagnose "github.com/spile/spile/agent/doctor"
	"github.com/spile/spile/agent/gate"
)

// errUnhealthy says that doctor found what keeps the agent from working; its lines have said the rest.
var errUnhealthy = errors.New("the agent cannot work here")

// doctor shows what this kernel and host allow.
func doctor(ctx context.Context, w world, c config, _ []string) error {
	checks := diagnose.Doctor(ctx, diagnose.ThisHost())
	checks = append(checks, gateChecks(gate.Test(ctx, gate.ThisHost()))...)
	checks = append(checks, deniedChecks(c.data)...)
	if c.output == "json" {
		out := json.NewEncoder(w.stdout)
		for _, check := range checks {
			if err := out.Encode(check); err != nil {
				return err
			}
		}
	} else {
		out := tabwriter.NewWriter(w.stdout, 0, 0, 2, ' ', 0)
		for _, check := range checks {
			fmt.Fprintf(out, "%s\t%s\t%s\n", check.Verdict, check.Name, check.Detail)
			if check.Remedy != "" {
				fmt.Fprintf(out, "\t\t→ %s\n", check.Remedy)
			}
			file := ""
			for _, site := range check.Sites {
				if site.File != file {
					file = site.File
					fmt.Fprintf(out, "\t\t  %s (%s)\n", file, site.Library)
				}
				fmt.Fprintf(out, "\t\t    %s\n", site)
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
	if !diagnose.Healthy(checks) {
		return errUnhealthy
	}
	return nil
}

// gateChecks tells what was tried on a program of our own. A gate that is refused takes away a part of the service.
func gateChecks(r gate.Report) []diagnose.Check {
	var checks []diagnose.Check
	for _, g := range r.Gates {
		c := diagnose.Check{Name: g.Name, Verdict: diagnose.OK, Detail: g.Detail, Remedy: g.Remedy}
		if g.State != gate.Passed {
			c.Verdict = diagnose.Warn
		}
		checks = append(checks, c)
	}
	cost := diagnose.Check{Name: "probe_cost", Verdict: diagnose.OK, Detail: fmt.Sprintf(
		"one hit costs %.1f µs where the kernel emulates the instruction, %.1f µs elsewhere, and a return %.1f µs",
		r.Costs.EmulatedNs/1000, r.Costs.SingleStepNs/1000, r.Costs.ReturnNs/1000)}
	if !r.Costs.Measured {
		cost.Verdict, cost.Detail = diagnose.Warn, "not measured here; costs are told by what is typical: "+cost.Detail
		cost.Remedy = "run doctor again when the machine is less busy"
	}
	return append(checks, cost)
}
