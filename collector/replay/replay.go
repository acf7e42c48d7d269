package replay

import (
	"cmp"
	"context"
	"slices"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// defaultMaxCalls is about 2 GB of calls as agents make them.
const defaultMaxCalls = 2_000_000

// Inventory is what replay needs of the collector's inventory.
type Inventory interface {
	Observe(call *v1.Call)
	Services() []*v1.Service
	Endpoints(service string, candidates bool) []*v1.Endpoint
}

// Detector is what replay needs of detection.
type Detector interface {
	Observe(call *v1.Call) []*v1.Finding
	Findings() []*v1.Finding
}

// Pipeline is the stages that calls go through, all fresh.
type Pipeline struct {
	// Service is intake's rule for a call that names none.
	Service func(call *v1.Call) string
	// Route gives a call its template: asked before the inventory sees the call, and again when it has seen all.
	Route     func(call *v1.Call) string
	Inventory Inventory
	Detector  Detector
	// MaxCalls bounds memory; 0 = 2,000,000.
	MaxCalls int
}

// Result is what a replay found.
type Result struct {
	// Calls in input order, with the routes of the finished inventory.
	Calls []*v1.Call
	// Endpoints that were answered as existing, in order of service, route, method.
	Endpoints []*v1.Endpoint
	// Findings in order of id.
	Findings []*v1.Finding
}

// Run replays the inputs, one after the other as if they were one.
func Run(ctx context.Context, inputs []Input, p Pipeline) (*Result, error) {
	if p.MaxCalls <= 0 {
		p.MaxCalls = defaultMaxCalls
	}
	r := &Result{}
	var err error
	for i, in := range inputs {
		if r.Calls, err = p.read(ctx, r.Calls, i, in); err != nil {
			return nil, err
		}
	}
	for i, c := range byTime(r.Calls) {
		if err := checkEvery(ctx, i); err != nil {
			return nil, err
		}
		c.Route = p.Route(c)
		p.Inventory.Observe(c)
		p.Detector.Observe(c)
	}
	for _, c := range r.Calls {
		c.Route = p.Route(c)
	}
	r.Endpoints = endpoints(p.Inventory)
	r.Findings = p.Detector.Findings()
	return r, nil
}

// checkEvery looks at ctx once in a while: a large replay must obey Ctrl-C.
func checkEvery(ctx context.Context, i int) error {
	if i%1024 != 0 {
		return nil
	}
	return ctx.Err()
}

// byTime returns the calls in order of event time; equal times keep their input order.
func byTime(calls []*v1.Call) []*v1.Call {
	sorted := slices.Clone(calls)
	slices.SortStableFunc(sorted, func(a, b *v1.Call) int {
		return cmp.Or(cmp.Compare(a.Time.Seconds, b.Time.Seconds), cmp.Compare(a.Time.Nanos, b.Time.Nanos))
	})
	return sorted
}

func endpoints(inv Inventory) []*v1.Endpoint {
	var all []*v1.Endpoint
	for _, s := range inv.Services() {
		all = append(all, inv.Endpoints(s.GetName(), false)...)
	}
	slices.SortStableFunc(all, func(a, b *v1.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Route, b.Route), cmp.Compare(a.Method, b.Method),
			cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Id, b.Id))
	})
	return all
}
