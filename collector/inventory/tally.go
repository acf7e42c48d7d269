package inventory

import (
	"slices"
	"strconv"
	"strings"
)

// overflowName takes the counts of names beyond a tally's bound.
const overflowName = "*"

// tally counts by name. The few names are searched in order; the newest hit is found first.
type tally struct {
	rows []count
}

type count struct {
	name string
	code uint32 // of a status, to find it without making its name
	n    uint64
}

func (t *tally) add(name string, limit int) {
	if name == "" {
		return
	}
	for i := range t.rows {
		if t.rows[i].name == name {
			t.hit(i)
			return
		}
	}
	if len(t.rows) >= limit && name != overflowName {
		t.add(overflowName, limit)
		return
	}
	t.rows = append(t.rows, count{name: strings.Clone(name), n: 1})
}

// addStatus counts a status code. It finds the code as a number; 0 (no answer) is rare and goes by name.
func (t *tally) addStatus(code uint32) {
	for i := range t.rows {
		if t.rows[i].code == code && code != 0 {
			t.hit(i)
			return
		}
	}
	name := strconv.FormatUint(uint64(code), 10)
	t.add(name, maxStatuses)
	for i := range t.rows {
		if t.rows[i].name == name {
			t.rows[i].code = code
		}
	}
}

// hit counts row i and moves it to the front: the next call is likely to be of the same kind.
func (t *tally) hit(i int) {
	t.rows[i].n++
	if i > 0 {
		t.rows[0], t.rows[i] = t.rows[i], t.rows[0]
	}
}

func (t *tally) table() map[string]uint64 {
	if len(t.rows) == 0 {
		return nil
	}
	m := make(map[string]uint64, len(t.rows))
	for _, r := range t.rows {
		m[r.name] = r.n
	}
	return m
}

func tallyOf(m map[string]uint64) (t tally) {
	for name, n := range m {
		t.rows = append(t.rows, count{name: name, n: n})
	}
	slices.SortFunc(t.rows, func(a, b count) int { return strings.Compare(a.name, b.name) })
	return t
}

// names is a small set. What is beyond its bound is left out.
type names struct {
	list []string
	last string // the newest hit: most calls repeat it
}

// add reports whether the set changed.
func (s *names) add(name string, limit int) bool {
	if name == "" || name == s.last {
		return false
	}
	if i := slices.Index(s.list, name); i >= 0 {
		s.last = s.list[i]
		return false
	}
	if len(s.list) >= limit {
		return false
	}
	s.last = strings.Clone(name)
	s.list = append(s.list, s.last)
	return true
}

func (s *names) sorted() []string {
	list := slices.Clone(s.list)
	slices.Sort(list)
	return list
}

func namesOf(list []string) names { return names{list: slices.Clone(list)} }
