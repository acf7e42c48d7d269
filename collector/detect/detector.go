package detect

import (
	"cmp"
	"fmt"
	"slices"

	"cel.dev/cel-go/common/types/ref"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// maxSpread is how many findings one rule may make on one service before the rest become one, with route "*": a scanner must not
// fill a partition, and nobody reads the two thousandth.
const maxSpread = 1000

// Detector holds the findings of one partition. One goroutine uses it.
type Detector struct {
	rules    *Rules
	limit    int
	table    []fact
	findings map[string]*entry
	// spread counts the findings of each rule and service.
	spread map[[2]string]int
	// batch counts Begin; 0 means that revisions rise at every change.
	batch    uint64
	counters *Counters
}

// entry is one finding and the batch in which its revision rose last.
type entry struct {
	finding *v1.Finding
	raised  uint64
}

// New makes a detector that holds at most limit findings.
func New(rules *Rules, limit int) (*Detector, error) {
	if rules == nil || len(rules.list) == 0 {
		return nil, fmt.Errorf("make detector: %w: no rules", ErrRule)
	}
	if limit < 1 {
		return nil, fmt.Errorf("make detector: limit of %d findings is not positive", limit)
	}
	return &Detector{rules: rules, limit: limit, table: factTable(), findings: make(map[string]*entry),
		spread: make(map[[2]string]int), counters: &Counters{}}, nil
}

// Restore puts back stored findings, before the first Observe. A finding of a rule that is gone stays as it is.
func (d *Detector) Restore(findings []*v1.Finding) error {
	for _, f := range findings {
		if f.GetId() == "" || f.GetRevision() == 0 {
			return fmt.Errorf("restore finding %q of rule %q: it has no id or no revision", f.GetId(), f.GetRule())
		}
		d.add(&entry{finding: f})
	}
	return nil
}

// Begin starts a batch: the calls whose changes are stored together. Call it after each store, before the next Observe. Within a
// batch a finding's revision rises once at most, so that the first that sinks hear of a finding is revision 1, however many calls
// of the batch matched. A store in the middle of a batch would hide from sinks what changes in its second half.
func (d *Detector) Begin() { d.batch++ }

// Observe checks one call against every rule and returns the findings that it made or changed, in order of rule id.
// They are new values: nothing changes them later.
func (d *Detector) Observe(call *v1.Call) []*v1.Finding {
	has := d.factsOf(call)
	var changed []*v1.Finding
	var act *activation
	for _, r := range d.rules.list {
		if r.program.needs&^has != 0 {
			continue
		}
		if act == nil {
			act = &activation{call: d.value(call)}
		}
		d.counters.evaluated.Add(1)
		ok, err := holds(r.program.when, act)
		if err != nil {
			d.counters.fail(r, "when", err)
			continue
		}
		if !ok {
			continue
		}
		d.counters.matched.Add(1)
		if f := d.match(r, call, act); f != nil {
			changed = append(changed, f)
		}
	}
	return changed
}

// Findings returns every finding, in order of id.
func (d *Detector) Findings() []*v1.Finding {
	all := make([]*v1.Finding, 0, len(d.findings))
	for _, e := range d.findings {
		all = append(all, e.finding)
	}
	slices.SortFunc(all, func(a, b *v1.Finding) int { return cmp.Compare(a.Id, b.Id) })
	return all
}

// CountTo makes the detector count into c, which any number of detectors may share, and which outlives them.
func (d *Detector) CountTo(c *Counters) { d.counters = c }

func (d *Detector) add(e *entry) {
	d.findings[e.finding.GetId()] = e
	d.spread[[2]string{e.finding.GetRule(), e.finding.GetService()}]++
}

func (d *Detector) value(call *v1.Call) ref.Val { return d.rules.adapter.NativeToValue(call) }

func (d *Detector) factsOf(call *v1.Call) facts {
	var has facts
	for _, f := range d.table {
		if f.holds(call) {
			has |= f.bit
		}
	}
	return has
}

// match makes or changes the finding that a matching call belongs to. nil = it did not fit.
func (d *Detector) match(r *Rule, call *v1.Call, act *activation) *v1.Finding {
	k := keyOf(r, call)
	id := k.id()
	e := d.findings[id]
	if e == nil && d.spread[[2]string{k.rule, k.service}] >= maxSpread {
		k = key{rule: k.rule, service: k.service, route: "*"}
		id = k.id()
		e = d.findings[id]
	}
	sighting := sighting{rule: r, key: k, id: id, call: call, severity: r.Severity, loopback: onLoopback(call)}
	for i, p := range r.program.severity {
		ok, err := holds(p, act)
		if err != nil {
			d.counters.fail(r, "severity_if", err)
			continue
		}
		if ok {
			sighting.severity = r.SeverityIf[i].Severity
			break
		}
	}
	if e == nil && len(d.findings) >= d.limit {
		d.counters.overflow.Add(1)
		return nil
	}
	if e == nil || len(e.finding.Evidence) < maxEvidence {
		why, err := explain(r.program.why, act)
		if err != nil {
			d.counters.fail(r, "why", err)
			why = r.Title
		}
		sighting.why = why
	}
	if e == nil {
		e = &entry{finding: sighting.first(), raised: d.batch}
		d.add(e)
		return e.finding
	}
	next, raise := sighting.next(e.finding)
	if raise && (d.batch == 0 || e.raised != d.batch) {
		next.Revision++
		e.raised = d.batch
	}
	e.finding = next
	return next
}
