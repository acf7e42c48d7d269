package probe

import (
	"fmt"
	"slices"

	"github.com/spile/spile/agent/target"
)

// role is what a placement is for.
type role uint8

const (
	sure  role = iota // where the function's own name says
	inner             // at a cheaper place inside, in place of the sure ones
	check             // at that place, to see whether it shows the same calls
)

// checkProgram compares the call at an inner place with the one around it.
const checkProgram = "ssl_check"

// placement is one program and every place in a file where it goes.
type placement struct {
	program string
	atExit  bool // by return probes
	role    role
	group   target.Place // the inner place that it belongs to; zero = none
	symbols []string
	offsets []uint64
	classes []target.Class // of the instructions there
}

// judge says what is known of an inner place.
type judge func(*target.Place) verdict

// plan groups sites by program: one uprobe_multi link serves all places of one program. What may give way to an inner
// place is on its own.
func plan(sites []target.Site, judge judge) []placement {
	var p planned
	for _, s := range sites {
		group, taken := p.group(s, judge)
		switch {
		case taken:
			p.put(placement{program: s.Inner.Exit, atExit: true, role: inner, group: group}, s.Inner.Name, s.Inner.Class, s.Inner.Offset)
		// Exits first: a call that begins between the two links then ends unseen, instead of beginning and never ending.
		case len(s.Returns) > 0:
			p.put(placement{program: s.Exit}, s.Symbol, target.Unknown, s.Returns...)
		default:
			p.put(placement{program: s.Exit, atExit: true, group: group}, s.Symbol, s.Class, s.Offset)
		}
	}
	for _, s := range sites {
		group, taken := p.group(s, judge)
		if taken {
			p.put(placement{program: s.Inner.Enter, role: inner, group: group}, s.Inner.Name, s.Inner.Class, s.Inner.Offset)
			continue
		}
		p.put(placement{program: s.Enter, group: group}, s.Symbol, s.Class, s.Offset)
	}
	for _, s := range sites {
		if group, taken := p.group(s, judge); group != (target.Place{}) && !taken {
			p.put(placement{program: checkProgram, role: check, group: group}, s.Inner.Name, s.Inner.Class, s.Inner.Offset)
		}
	}
	return []placement(p)
}

type planned []placement

// group is the inner place that a site goes to, or may go to; taken says that it goes there.
func (planned) group(s target.Site, judge judge) (group target.Place, taken bool) {
	if s.Inner == nil || len(s.Returns) > 0 {
		return target.Place{}, false
	}
	switch judge(s.Inner) {
	case agreed:
		return *s.Inner, true
	case disagreed:
		return target.Place{}, false
	}
	return *s.Inner, false
}

func (p *planned) put(at placement, symbol string, class target.Class, offsets ...uint64) {
	if at.program == "" {
		return
	}
	i := slices.IndexFunc(*p, func(x placement) bool {
		return x.program == at.program && x.atExit == at.atExit && x.role == at.role && x.group == at.group
	})
	if i < 0 {
		i = len(*p)
		*p = append(*p, at)
	}
	x := &(*p)[i]
	for _, offset := range offsets {
		// Two names of one function (an alias) must not fire twice.
		if !slices.Contains(x.offsets, offset) {
			x.offsets = append(x.offsets, offset)
			x.symbols = append(x.symbols, symbol)
			x.classes = append(x.classes, class)
		}
	}
}

// places is the part of a plan that puts the probes of one inner place inside of those that are there. Entries first: a
// call that begins between the two links then ends at the outer return, while an inner return without its entry would
// look like a loss.
func places(plan []placement, group target.Place) []placement {
	list := slices.DeleteFunc(slices.Clone(plan), func(p placement) bool { return p.role != inner || p.group != group })
	slices.Reverse(list)
	return list
}

// explain says where the probes lie, a line for each site; doubts says why an inner place is not used.
func explain(sites []target.Site, judge judge, doubts func(*target.Place) string) []string {
	lines := make([]string, 0, len(sites))
	for _, s := range sites {
		verdict := undecided
		if s.Inner != nil && len(s.Returns) == 0 {
			verdict = judge(s.Inner)
		}
		switch inner := s.Inner; verdict {
		case agreed:
			lines = append(lines, fmt.Sprintf("%s: %s, %s", s.Symbol, inner.Name, inner.Class))
		case disagreed:
			s.Inner = nil
			lines = append(lines, fmt.Sprintf("%s; %s is not used: other calls were seen there%s", s.Explain(), inner.Name, doubts(inner)))
		default:
			lines = append(lines, s.Explain())
		}
	}
	return lines
}
