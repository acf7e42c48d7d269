package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	diagnose "github.com/spile/spile/agent/doctor"
	"github.com/spile/spile/agent/gate"
)

// errUnhealthy says that doctor found what keeps the agent from working; its lines have said the rest.
var errUnhealthy = errors.New("the agent cannot work here")

// doctor shows what this kernel and host allow.
func doctor(ctx context.Context, w world, c config, _ []string) error {
	known, host := lookUp(dataDirs(c)...), diagnose.ThisHost()
	host.InUse = known.inUse
	checks := diagnose.Doctor(ctx, host)
	checks = append(checks, gateChecks(gate.Test(ctx, gate.ThisHost()))...)
	checks = append(checks, known.check())
	checks = append(checks, deniedChecks(known.dir)...)
	checks = append(checks, learnedChecks(known.dir)...)
	if c.output == "json" {
		out := json.NewEncoder(w.stdout)
		for _, check := range checks {
			if err := out.Encode(check); err != nil {
				return err
			}
		}
	} else {
		if err := printChecks(w.stdout, checks); err != nil {
			return err
		}
	}
	if !diagnose.Healthy(checks) {
		return errUnhealthy
	}
	return nil
}

// printChecks shows checks in three columns; what does not fit a terminal goes on below.
func printChecks(to io.Writer, checks []diagnose.Check) error {
	out := bufio.NewWriter(to)
	width := 0
	for _, c := range checks {
		width = max(width, len(c.Name))
	}
	left := len("warn") + 2 + width + 2
	below := func(indent int, first, text string) {
		const hang = "  "
		for i, line := range wrapped(first+text, helpWidth-left-indent-len(hang)) {
			if i > 0 {
				line = hang + line
			}
			fmt.Fprintf(out, "%*s%s\n", left+indent, "", line)
		}
	}
	for _, c := range checks {
		fmt.Fprintf(out, "%-4s  %-*s  ", c.Verdict, width, c.Name)
		lines := wrapped(c.Detail, helpWidth-left)
		fmt.Fprintln(out, lines[0])
		for _, line := range lines[1:] {
			fmt.Fprintf(out, "%*s%s\n", left, "", line)
		}
		if c.Remedy != "" {
			below(0, "→ ", c.Remedy)
		}
		file := ""
		for _, site := range c.Sites {
			if site.File != file {
				file = site.File
				below(2, "", fmt.Sprintf("%s (%s, build id %s)", file, site.Library, cmp.Or(site.BuildID, "none")))
			}
			below(4, "", site.String())
		}
	}
	return out.Flush()
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
