package main

import (
	"fmt"

	"github.com/spile/spile/agent/govern"
	"github.com/spile/spile/agent/source"
	"github.com/spile/spile/bpf"
)

// heldOneIn is of how many connections one is kept where a person holds the stage "sampled".
const heldOneIn = 8

// heldStage is the decision that --governor-stage asks for; nil = the governor decides.
func heldStage(name string) (*govern.Decision, error) {
	if name == "" {
		return nil, nil
	}
	for s := govern.Full; s <= govern.Sampled; s++ {
		if s.String() != name {
			continue
		}
		d := &govern.Decision{Stage: s, OneIn: 1, Reason: "held by --governor-stage"}
		if s == govern.Sampled {
			d.OneIn = heldOneIn
		}
		return d, nil
	}
	return nil, fmt.Errorf("--governor-stage %q: want %s", name, orList(stageNames()))
}

// stageNames are the stages that can be held: at the last one files are detached, which only a budget decides.
func stageNames() []string {
	var names []string
	for s := govern.Full; s <= govern.Sampled; s++ {
		names = append(names, s.String())
	}
	return names
}

// hold has the kernel show no more than a stage does, for as long as the agent runs.
func (g *governor) hold(d govern.Decision) error {
	err := g.sheds.SetShed(bpf.Shed{Bodies: d.Stage >= govern.NoBodies, Responses: d.Stage >= govern.NoResponses, OneIn: d.OneIn}, nil)
	if err != nil {
		return fmt.Errorf("hold the stage %s: %w", d.Stage, err)
	}
	d.Since = source.SinceBoot()
	g.held = &d
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now = d
	g.changes[d.Stage]++
	return nil
}

// step judges, where nobody has decided for good. What is used is told all the same.
func (g *governor) step(s govern.Sample) govern.Decision {
	if g.held == nil {
		return g.judge.Step(s)
	}
	d := *g.held
	d.Agent = s.Agent
	for _, f := range s.Files {
		d.Probes += f.Cores
	}
	return d
}
