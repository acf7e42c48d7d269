package detect

import (
	"fmt"
	"sync/atomic"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// Counters count what detectors did since the program started. Any goroutine may read them.
type Counters struct {
	evaluated, matched, errors, overflow atomic.Uint64
	lastError                            atomic.Pointer[error]
}

// Counts are the counters of stage "detect":
//
//	evaluated  conditions of calls that met a rule's needs
//	matched    calls that broke a rule, once per rule
//	errors     evaluations that failed; the call counted as no match
//	overflow   matches that would have made a finding beyond the limit
func (c *Counters) Counts() []*v1.Count {
	count := func(name string, n *atomic.Uint64, lost bool) *v1.Count {
		return &v1.Count{Stage: "detect", Name: name, Value: n.Load(), Lost: lost}
	}
	return []*v1.Count{
		count("evaluated", &c.evaluated, false), count("matched", &c.matched, false),
		count("errors", &c.errors, true), count("overflow", &c.overflow, true),
	}
}

// LastError is the newest failed evaluation; nil = none yet.
func (c *Counters) LastError() error {
	if p := c.lastError.Load(); p != nil {
		return *p
	}
	return nil
}

func (c *Counters) fail(r *Rule, what string, err error) {
	err = fmt.Errorf("evaluate %s of rule %s: %w", what, r.ID, err)
	c.errors.Add(1)
	c.lastError.Store(&err)
}
