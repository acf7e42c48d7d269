package intake

import (
	"math"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// maxCores is more than any host has; what is beyond it is no figure.
const maxCores = 1 << 20

// governor makes an agent's account of its own cost possible.
func (w *warden) governor(g *v1.Governor) {
	if g == nil {
		return
	}
	forget(g)
	w.words(&g.Stage)
	w.lines(&g.Cgroup, &g.Reason, &g.Exceeded)
	for _, cores := range []*float64{&g.AgentCores, &g.ProbeCores, &g.AgentBudgetCores, &g.ProbeBudgetCores} {
		if !(*cores >= 0 && *cores <= maxCores) { // NaN too
			*cores, w.altered = min(max(0, *cores), maxCores), true
			if math.IsNaN(*cores) {
				*cores = 0
			}
		}
	}
	if g.Since != nil {
		forget(g.Since)
		if !g.Since.IsValid() {
			g.Since, w.altered = nil, true
		}
	}
}

// cost makes what probes cost possible: where they lie, and a time that is one.
func (w *warden) cost(p *v1.Probe) {
	p.Sites = first(w, "sites", p.Sites, maxSites)
	for i := range p.Sites {
		w.lines(&p.Sites[i])
	}
	if p.Cost == nil {
		return
	}
	forget(p.Cost)
	if !p.Cost.IsValid() || p.Cost.AsDuration() < 0 {
		p.Cost, w.altered = nil, true
	}
}
