package intake

import (
	"cmp"
	"math"
	"slices"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/proto"
)

// omittedBytes is room for what is said of rows that were left out.
const omittedBytes = 256

// omissible are the lists of which rows may be left out, by the names in Health.omitted.
func omissible() []string {
	return []string{"cgroup_losses", "counts", "coverage", "denials", "gates", "probes", "sites", "targets"}
}

// tail is the end of a list, where its least important rows are.
type tail struct {
	name  string
	sizes []int
	bytes int
	keep  func(n int)
}

func tailOf[M proto.Message](w *warden, name string, list *[]M) *tail {
	t := &tail{name: name, keep: func(n int) { *list = first(w, name, *list, n) }}
	for _, m := range *list {
		t.sizes = append(t.sizes, proto.Size(m)+2) // and its tag and length
		t.bytes += t.sizes[len(t.sizes)-1]
	}
	return t
}

// fit leaves out of a report what it takes to come below maxHealthBytes: where probes lie first, then rows, each time the last
// one of the list that takes most room.
func (w *warden) fit(h *v1.Health) {
	said := h.Omitted // an agent's names may be of any length
	h.Omitted = nil
	over := proto.Size(h) + omittedBytes - maxHealthBytes
	h.Omitted = said
	if over <= 0 {
		return
	}
	byUrgency(h.Probes)
	for i := len(h.Probes) - 1; i >= 0 && over > 0; i-- {
		if p := h.Probes[i]; len(p.Sites) > 0 {
			before := proto.Size(p)
			p.Sites = first(w, "sites", p.Sites, 0)
			over -= before - proto.Size(p)
		}
	}
	targets := &tail{name: "targets", keep: func(n int) { h.Targets = first(w, "targets", h.Targets, n) }}
	for _, text := range h.Targets {
		targets.sizes = append(targets.sizes, len(text)+2)
		targets.bytes += len(text) + 2
	}
	// Without these lists it fits: rungs and gates within their bounds are far below.
	lists := []*tail{
		tailOf(w, "coverage", &h.Coverage), tailOf(w, "probes", &h.Probes), tailOf(w, "cgroup_losses", &h.CgroupLosses),
		tailOf(w, "denials", &h.Denials), targets, tailOf(w, "counts", &h.Counts),
	}
	for over > 0 {
		largest := slices.MaxFunc(lists, func(a, b *tail) int { return cmp.Compare(a.bytes, b.bytes) })
		n := len(largest.sizes) - 1
		if n < 0 {
			break
		}
		over, largest.bytes = over-largest.sizes[n], largest.bytes-largest.sizes[n]
		largest.sizes = largest.sizes[:n]
	}
	for _, t := range lists {
		t.keep(len(t.sizes))
	}
}

// byUrgency puts first what a person must know: denied, suspended, otherwise not probed, then what costs most. An agent does
// that too, since it has learned to.
func byUrgency(probes []*v1.Probe) {
	urgency := func(p *v1.Probe) int {
		switch {
		case p.State == "denied":
			return 0
		case p.State == "suspended":
			return 1
		case p.Reason != "" && p.State != "canary" && p.State != "attached":
			return 2
		}
		return 3
	}
	slices.SortStableFunc(probes, func(a, b *v1.Probe) int {
		return cmp.Or(cmp.Compare(urgency(a), urgency(b)), cmp.Compare(b.Cost.AsDuration(), a.Cost.AsDuration()), cmp.Compare(b.Hits, a.Hits))
	})
}

// omissions joins what the agent left out with what was left out here.
func (w *warden) omissions(h *v1.Health) {
	all := map[string]uint64{}
	for _, name := range omissible() {
		if n := h.Omitted[name]; n > math.MaxUint64-w.omitted[name] {
			all[name] = math.MaxUint64
		} else if n+w.omitted[name] > 0 {
			all[name] = n + w.omitted[name]
		}
	}
	if h.Omitted = all; len(all) == 0 {
		h.Omitted = nil
	}
}

// first leaves the first rows of a list, and nothing of the others in memory.
func first[T any](w *warden, name string, list []T, n int) []T {
	if len(list) <= n {
		return list
	}
	left := uint64(len(list) - n)
	w.dropped += left
	if w.omitted == nil {
		w.omitted = map[string]uint64{}
	}
	w.omitted[name] += left
	return slices.Clone(list[:n])
}

// denial is a row of a build that is not probed any more.
func (w *warden) denial(d *v1.Denial) {
	forget(d)
	w.words(&d.BuildId, &d.Library, &d.Name)
	w.lines(&d.Path, &d.Reason, &d.Evidence)
	if d.Since != nil {
		forget(d.Since)
		if !d.Since.IsValid() {
			d.Since, w.altered = nil, true
		}
	}
}
