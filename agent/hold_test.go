package main

import (
	"testing"
	"time"

	"github.com/spile/spile/agent/govern"
	"github.com/spile/spile/bpf"
)

// shedOnly takes a policy and keeps it.
type shedOnly struct{ got bpf.Shed }

func (s *shedOnly) SetShed(all bpf.Shed, _ map[uint64]bpf.Shed) error { s.got = all; return nil }

func (*shedOnly) CgroupLosses() ([]bpf.CgroupLoss, error) { return nil, nil }

// TestAHeldStageStays: what a person holds neither a budget nor calm changes.
func TestAHeldStageStays(t *testing.T) {
	for name, want := range map[string]bpf.Shed{
		"full":         {OneIn: 1},
		"no_bodies":    {Bodies: true, OneIn: 1},
		"no_responses": {Bodies: true, Responses: true, OneIn: 1},
		"sampled":      {Bodies: true, Responses: true, OneIn: heldOneIn},
	} {
		kernel := &shedOnly{}
		g := newGovernor(govern.Budget{Agent: 0.001}, kernel, nil, nil)
		held, err := heldStage(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.hold(*held); err != nil {
			t.Fatal(err)
		}
		for at := time.Second; at < 5*time.Minute; at += time.Second {
			if d := g.step(govern.Sample{Now: at, Agent: 4}); d.Changed || d.Stage.String() != name || d.Agent != 4 {
				t.Fatalf("%s: after %v %+v", name, at, d)
			}
		}
		if kernel.got != want || g.account(0).GetStage() != name {
			t.Errorf("%s: the kernel has %+v, want %+v; told is %v", name, kernel.got, want, g.account(0))
		}
	}
	if held, err := heldStage("detached"); err == nil {
		t.Errorf("a stage that cannot be held: %+v", held)
	}
	if held, err := heldStage(""); held != nil || err != nil {
		t.Errorf("nothing is held: %+v, %v", held, err)
	}
}
