package detect

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/spile/spile/proto/line"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// Test is one example of a rule: calls in, findings out.
type Test struct {
	Name string `yaml:"name"`
	// Calls are Call JSON lines, as "spile calls -o json" prints them.
	Calls string `yaml:"calls"`
	// Want are the findings of this rule; empty = none.
	Want []Want `yaml:"want"`
}

// Want is what a test expects of one finding. Every field that is set must be equal; Why must occur in the first evidence.
type Want struct {
	Severity string `yaml:"severity"`
	Scope    string `yaml:"scope"`
	Method   string `yaml:"method"`
	Route    string `yaml:"route"`
	Count    uint64 `yaml:"count"`
	Why      string `yaml:"why"`
}

// checkTests demands that a rule shows what it finds and what it leaves alone.
func (r *Rule) checkTests() error {
	finds, leaves := false, false
	for i, t := range r.Tests {
		if t.Name == "" || strings.TrimSpace(t.Calls) == "" {
			return fmt.Errorf("test %d lacks name or calls", i+1)
		}
		if len(t.Want) > 0 {
			finds = true
		} else {
			leaves = true
		}
	}
	if !finds || !leaves {
		return errors.New("tests must hold one that finds something and one that finds nothing")
	}
	return nil
}

// Verify runs the tests inside the rules.
func (r *Rules) Verify() error {
	var errs []error
	for _, rule := range r.list {
		for _, t := range rule.Tests {
			if err := rule.verify(t); err != nil {
				errs = append(errs, fmt.Errorf("rule %s: test %q: %w", rule.ID, t.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (r *Rule) verify(t Test) error {
	alone, err := newRules([]*Rule{r})
	if err != nil {
		return err
	}
	d, err := New(alone, 1000)
	if err != nil {
		return err
	}
	for i, text := range bytes.Split([]byte(t.Calls), []byte("\n")) {
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		call := &v1.Call{}
		if err := line.Unmarshal(text, call); err != nil {
			return fmt.Errorf("read call on line %d: %w", i+1, err)
		}
		d.Observe(call)
	}
	if err := d.counters.LastError(); err != nil {
		return err
	}
	got := d.Findings()
	if len(got) != len(t.Want) {
		return fmt.Errorf("%d findings, want %d: %v", len(got), len(t.Want), got)
	}
	for _, w := range t.Want {
		if !matchOne(w, got) {
			return fmt.Errorf("no finding like %+v in %v", w, got)
		}
	}
	return nil
}

func matchOne(w Want, got []*v1.Finding) bool {
	for _, f := range got {
		if (w.Severity == "" || w.Severity == f.Severity) && w.Scope == f.Scope && (w.Method == "" || w.Method == f.Method) &&
			(w.Route == "" || w.Route == f.Route) && (w.Count == 0 || w.Count == f.Count) && strings.Contains(f.Evidence[0].Why, w.Why) {
			return true
		}
	}
	return false
}
