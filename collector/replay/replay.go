package replay

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/protobuf/proto"

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
	// Decode reads one Call JSON line, Encode appends one message as such a line without newline.
	Decode func(line []byte, call *v1.Call) error
	Encode func(dst []byte, m proto.Message) []byte
	// Service is intake's rule for a call that names none.
	Service func(call *v1.Call) string
	// Route gives a call its template: asked before the inventory sees the call, and again when it has seen all.
	Route     func(call *v1.Call) string
	Inventory Inventory
	Detector  Detector
}

// Options say what to print, in this order: calls, endpoints, findings.
type Options struct {
	Calls, Endpoints, Findings bool
	// Candidates also prints endpoints that never were answered as existing.
	Candidates bool
	// MaxCalls bounds memory; 0 = 2,000,000.
	MaxCalls int
	// Table prints for people; nil = JSON lines.
	Table func(out io.Writer, r *Result) error
}

// Result is what a replay found. A list that was not asked for is nil.
type Result struct {
	// Calls in input order.
	Calls []*v1.Call
	// Endpoints in order of service, route, method.
	Endpoints []*v1.Endpoint
	// Findings in order of id.
	Findings []*v1.Finding
}

// Run replays the inputs and prints what the options ask for.
func Run(inputs []Input, o Options, p Pipeline, out io.Writer) error {
	r, err := Process(inputs, o, p)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(out, 64<<10)
	if o.Table != nil {
		err = o.Table(w, r)
	} else {
		err = r.lines(w, p.Encode)
	}
	if err = errors.Join(err, w.Flush()); err != nil {
		return fmt.Errorf("print replay: %w", err)
	}
	return nil
}

// Process replays the inputs.
func Process(inputs []Input, o Options, p Pipeline) (*Result, error) {
	most := o.MaxCalls
	if most <= 0 {
		most = defaultMaxCalls
	}
	var calls []*v1.Call
	var err error
	for i, in := range inputs {
		if calls, err = p.read(calls, i, in, most); err != nil {
			return nil, err
		}
	}
	for _, c := range byTime(calls) {
		c.Route = p.Route(c)
		p.Inventory.Observe(c)
		p.Detector.Observe(c)
	}
	r := &Result{}
	if o.Calls {
		for _, c := range calls {
			c.Route = p.Route(c)
		}
		r.Calls = calls
	}
	if o.Endpoints {
		r.Endpoints = endpoints(p.Inventory, o.Candidates)
	}
	if o.Findings {
		r.Findings = p.Detector.Findings()
	}
	return r, nil
}

// byTime returns the calls in order of event time; equal times keep their input order.
func byTime(calls []*v1.Call) []*v1.Call {
	sorted := slices.Clone(calls)
	slices.SortStableFunc(sorted, func(a, b *v1.Call) int {
		return cmp.Or(cmp.Compare(a.Time.Seconds, b.Time.Seconds), cmp.Compare(a.Time.Nanos, b.Time.Nanos))
	})
	return sorted
}

func endpoints(inv Inventory, candidates bool) []*v1.Endpoint {
	var all []*v1.Endpoint
	for _, s := range inv.Services() {
		all = append(all, inv.Endpoints(s.GetName(), candidates)...)
	}
	slices.SortStableFunc(all, func(a, b *v1.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Route, b.Route), cmp.Compare(a.Method, b.Method),
			cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Id, b.Id))
	})
	return all
}

func (r *Result) lines(w *bufio.Writer, encode func(dst []byte, m proto.Message) []byte) error {
	var buf []byte
	line := func(m proto.Message) error {
		buf = append(encode(buf[:0], m), '\n')
		_, err := w.Write(buf)
		return err
	}
	for _, c := range r.Calls {
		if err := line(c); err != nil {
			return err
		}
	}
	for _, e := range r.Endpoints {
		if err := line(e); err != nil {
			return err
		}
	}
	for _, f := range r.Findings {
		if err := line(f); err != nil {
			return err
		}
	}
	return nil
}
