package intake

import (
	"maps"
	"slices"
	"unicode/utf8"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/proto"
)

// An agent's report is kept for people to look at, so what one node may make the collector hold and show is bounded.
const (
	maxHealthBytes = 256 << 10
	maxHealthRows  = 1024 // of each list
	maxRungs       = 64
	maxGates       = 32
	maxSites       = 64  // of one probe
	maxWordBytes   = 256 // of a name
	maxLineBytes   = 1024
)

// begin forgets what an earlier run of the agent reported: beside "connected" it would look like what this run does, which
// may not have attached to anything yet.
func (s *Server) begin(a *agent, epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.health.GetEpoch() != epoch {
		a.health = nil
	}
}

// health keeps the report and measures the skew: a report is sent as it is made, whereas a batch may
// have waited in the spool.
func (s *Server) health(a *agent, h *v1.Health) {
	if h == nil {
		return
	}
	w := warden{}
	w.check(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	a.seen = s.cfg.Now()
	s.totals.HealthRowsDropped += w.dropped
	if w.altered {
		s.totals.HealthAltered++
	}
	a.health = h
	if h.GetTime().IsValid() {
		a.skew = h.Time.AsTime().Sub(a.seen)
	}
}

// warden brings a report within its bounds and notes what that took. An agent that is what it says has nothing to fear from it.
type warden struct {
	dropped uint64            // entries of lists
	omitted map[string]uint64 // the same, by list
	altered bool              // texts cut, figures corrected
}

func (w *warden) check(h *v1.Health) {
	if len(h.Probes) > maxHealthRows {
		byUrgency(h.Probes)
	}
	h.Coverage = first(w, "coverage", h.Coverage, maxHealthRows)
	h.Probes = first(w, "probes", h.Probes, maxHealthRows)
	h.Counts = first(w, "counts", h.Counts, maxHealthRows)
	h.Targets = first(w, "targets", h.Targets, maxHealthRows)
	h.Gates = first(w, "gates", h.Gates, maxGates)
	h.CgroupLosses = first(w, "cgroup_losses", h.CgroupLosses, maxHealthRows)
	h.Denials = first(w, "denials", h.Denials, maxHealthRows)
	w.rungs(h)
	w.words(&h.Version, &h.Kernel)
	forget(h)
	if h.Time != nil {
		forget(h.Time)
	}
	for i := range h.Targets {
		w.lines(&h.Targets[i])
	}
	for _, c := range h.Counts {
		forget(c)
		w.words(&c.Stage, &c.Name)
	}
	for _, p := range h.Probes {
		forget(p)
		w.words(&p.Library, &p.BuildId, &p.State)
		w.lines(&p.Path, &p.Reason, &p.Unleased)
		w.cost(p)
	}
	w.governor(h.Governor)
	for _, g := range h.Gates {
		forget(g)
		w.words(&g.Name, &g.State)
		w.lines(&g.Detail)
	}
	for _, l := range h.CgroupLosses {
		forget(l)
		w.words(&l.Reason)
		w.lines(&l.Cgroup)
	}
	for _, c := range h.Coverage {
		forget(c)
		w.coverage(c)
	}
	for _, d := range h.Denials {
		w.denial(d)
	}
	w.fit(h)
	w.omissions(h)
}

// forget drops what this collector does not understand, which nobody could look at here.
func forget(m proto.Message) { m.ProtoReflect().SetUnknown(nil) }

// coverage makes a row possible: what was decoded is part of what was moved.
func (w *warden) coverage(c *v1.Coverage) {
	w.words(&c.Process, &c.Container, &c.PodUid)
	w.lines(&c.Reason)
	if c.DecodedBytes > c.TlsBytes {
		c.DecodedBytes, w.altered = c.TlsBytes, true
	}
}

// rungs drops what is too long rather than cut it: two names could become one.
func (w *warden) rungs(h *v1.Health) {
	for i, name := range slices.Sorted(maps.Keys(h.Rungs)) {
		if i >= maxRungs || len(name) > maxWordBytes || len(h.Rungs[name]) > maxWordBytes {
			delete(h.Rungs, name)
			w.dropped++
		}
	}
}

func (w *warden) words(texts ...*string) { w.cut(maxWordBytes, texts) }

func (w *warden) lines(texts ...*string) { w.cut(maxLineBytes, texts) }

// cut shortens to whole characters.
func (w *warden) cut(limit int, texts []*string) {
	const more = "…"
	for _, s := range texts {
		if len(*s) <= limit {
			continue
		}
		n := limit - len(more)
		for n > 0 && !utf8.RuneStart((*s)[n]) {
			n--
		}
		*s, w.altered = (*s)[:n]+more, true
	}
}
