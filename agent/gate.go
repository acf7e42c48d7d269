package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spile/spile/agent/gate"
	"github.com/spile/spile/agent/probe"
	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// gates are what was tried on this host before anything was attached, and what follows from it.
type gates struct {
	gate.Report
	ignored list
	bodies  *gate.Bodies
}

// gateChild is the program that the gates are tried on; gate.Test starts it.
func gateChild(in io.Reader, out io.Writer) error { return gate.Child(in, out) }

// tryGates tests the host, and tells what it found.
func tryGates(ctx context.Context, ignored list, log *slog.Logger) *gates {
	g := &gates{Report: gate.Test(ctx, gate.ThisHost()), ignored: ignored}
	var passed []any
	for _, r := range g.Gates {
		switch {
		case r.State == gate.Passed:
			passed = append(passed, r.Name, r.Detail)
		case slices.Contains(ignored, r.Name):
			log.Warn("gate ignored, as --ignore-gate asks: programs may come to harm", "gate", r.Name, "state", r.State, "reason", r.Detail)
		default:
			log.Warn("gate "+string(r.State), "gate", r.Name, "reason", r.Detail, "remedy", r.Remedy)
		}
	}
	if passed != nil {
		log.Info("gates passed", passed...)
	}
	return g
}

// refused returns a gate that forbids something, else nil.
func (g *gates) refused(name string) *gate.Result {
	if slices.Contains(g.ignored, name) {
		return nil
	}
	return g.Refused(name)
}

// rows are the gates for the account of the agent.
func (g *gates) rows() []*v1.Gate {
	var rows []*v1.Gate
	for _, r := range g.Gates {
		row := &v1.Gate{Name: r.Name, State: string(r.State), Detail: r.Detail}
		if r.Remedy != "" {
			row.Detail += "; " + r.Remedy
		}
		if r.State != gate.Passed && slices.Contains(g.ignored, r.Name) {
			row.Detail += " (ignored: --ignore-gate)"
		}
		rows = append(rows, row)
	}
	return rows
}

// price says of which programs the run time is part of what a hit costs. Nobody may ask for that before.
func (g *gates) price(objects *bpf.Objects) {
	var entries, returns []string
	for _, l := range target.Libraries() {
		for _, f := range l.Functions {
			entries = append(entries, f.Enter)
			if l.Where == target.GoProgram {
				entries = append(entries, f.Exit) // on return instructions
			} else {
				returns = append(returns, f.Exit)
			}
		}
	}
	g.bodies = gate.NewBodies(entries, returns, objects.Program)
}

// measure has the kernel say now and then how long the programs run, until ctx ends.
func (g *gates) measure(ctx context.Context, log *slog.Logger) {
	if err := g.bodies.Run(ctx); err != nil {
		log.Info("what probes cost is estimated from typical run times of the programs", "reason", err)
	}
}

// hitNs is what one hit costs the program that is hit: the kernel's way to our program, and that.
func (g *gates) hitNs(class target.Class, atExit bool) float64 {
	body := g.bodies.Entries
	if atExit {
		body = g.bodies.Returns
	}
	return g.Costs.Ns(class == target.Emulated, atExit) + body.Ns()
}

// gated hands files on to the probes, less what a refused gate forbids. What is left out keeps a reason that people see.
type gated struct {
	*probe.Registry
	gates *gates
}

// Use is target.Sink's.
func (g gated) Use(p target.Process, f target.File) bool { return g.Registry.Use(p, g.gates.admit(f)) }

func (g *gates) admit(f target.File) target.File {
	if f.Problem != nil {
		return f
	}
	if r := g.refused(gate.Preempt); r != nil {
		f.Problem = &target.Problem{What: "attach to " + f.Path, Why: r.Detail, Remedy: r.Remedy}
		return f
	}
	r := g.refused(gate.UretprobeSeccomp)
	if r == nil || !slices.ContainsFunc(f.Sites, needsReturnProbe) {
		return f
	}
	f.Sites = slices.DeleteFunc(slices.Clone(f.Sites), needsReturnProbe)
	if !slices.ContainsFunc(f.Sites, func(s target.Site) bool { return len(s.Returns) > 0 }) {
		// Nothing of a call is seen at its begin alone.
		f.Problem = &target.Problem{What: "attach to " + f.Path, Why: r.Detail, Remedy: r.Remedy}
	}
	return f
}

// needsReturnProbe reports whether the exit of a function is found by a return probe, and not at its return instructions.
func needsReturnProbe(s target.Site) bool { return s.Exit != "" && len(s.Returns) == 0 }

// checkGates refuses the name of a gate that there is not.
func checkGates(names list) error {
	for _, name := range names {
		if !slices.Contains(gate.Names(), name) {
			return usageError{fmt.Errorf("--ignore-gate %s: want %s", name, strings.Join(gate.Names(), " or "))}
		}
	}
	return nil
}

// childVerb runs the child in the place of the program, before anything else has a thread.
func childVerb(args []string) (asked bool, err error) {
	if len(args) != 2 || args[1] != gate.Verb {
		return false, nil
	}
	return true, gateChild(os.Stdin, os.Stdout)
}
