package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spile/spile/collector/cli"
	"github.com/spile/spile/collector/detect"
	"github.com/spile/spile/collector/intake"
	"github.com/spile/spile/collector/inventory"
	"github.com/spile/spile/collector/replay"
	"github.com/spile/spile/collector/route"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// observed is an inventory whose endpoint ids nobody needs.
type observed struct{ *inventory.Inventory }

func (o observed) Observe(c *v1.Call) { o.Inventory.Observe(c) }

// replayer runs recorded calls through the stages of a collector, all fresh.
func replayer(w world) func(context.Context, []string) (cli.Replayed, error) {
	return func(ctx context.Context, files []string) (cli.Replayed, error) {
		rules, err := detect.Builtin()
		if err != nil {
			return cli.Replayed{}, err
		}
		detector, err := detect.New(rules, maxFindings)
		if err != nil {
			return cli.Replayed{}, err
		}
		var inputs []replay.Input
		for _, name := range files {
			if name == "-" {
				inputs = append(inputs, replay.Input{Name: "standard input", Reader: w.Stdin})
				continue
			}
			f, err := os.Open(name)
			if err != nil {
				return cli.Replayed{}, fmt.Errorf("read calls: %w", err)
			}
			defer f.Close()
			inputs = append(inputs, replay.Input{Name: name, Reader: f})
		}
		limits := inventory.DefaultLimits()
		// One replay holds what 64 partitions would.
		limits.Services, limits.Endpoints = limits.Services*intake.Partitions, limits.Endpoints*intake.Partitions
		r, err := replay.Run(ctx, inputs, replay.Pipeline{
			Service:   intake.Service,
			Route:     func(c *v1.Call) string { return route.Template(c.GetPath()) },
			Inventory: observed{inventory.New(limits)},
			Detector:  detector,
		})
		if errors.Is(err, context.Canceled) {
			return cli.Replayed{}, cli.ErrStopped
		}
		if err != nil {
			return cli.Replayed{}, err
		}
		return cli.Replayed{Calls: r.Calls, Endpoints: r.Endpoints, Findings: r.Findings}, nil
	}
}
