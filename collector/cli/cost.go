package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// maxLosers bounds the cgroups that a person is shown; -o json has all.
const maxLosers = 10

// sampledReason is what is left out because one connection in some is kept: not a loss, but not looked at.
const sampledReason = "sampled"

// costText says what an agent costs beside what it may; "" = it does not say.
func costText(g *v1.Governor) string {
	if g == nil {
		return ""
	}
	of := func(cores, budget float64) string {
		if budget <= 0 {
			return coresText(cores) + " cores"
		}
		return coresText(cores) + " of " + coresText(budget) + " cores"
	}
	return "agent " + of(g.GetAgentCores(), g.GetAgentBudgetCores()) + ", probes in the programs about " + of(g.GetProbeCores(), g.GetProbeBudgetCores())
}

// coresText says a figure with two digits that matter: a budget of 0.001 is not none.
func coresText(v float64) string {
	if v > 0 && v < 0.005 {
		return strconv.FormatFloat(v, 'g', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// degraded says what an agent leaves out, since when and why; "" = it takes in everything.
func degraded(now time.Time, g *v1.Governor) string {
	stage := g.GetStage()
	if stage == "" || stage == "full" {
		return ""
	}
	text := stage
	if what := map[string]string{
		"no_bodies": "bodies are not read", "no_responses": "responses are not read", "sampled": "not every connection is read",
		"detached": "probes are taken out of the dearest file",
	}[stage]; what != "" {
		text += " (" + what + ")"
	}
	if cgroup := g.GetCgroup(); cgroup != "" {
		text += " for " + cgroup
	}
	if since := g.GetSince(); since != nil {
		text += " since " + short(max(0, now.Sub(since.AsTime())))
	}
	return join(": ", text, strings.TrimPrefix(strings.TrimPrefix(g.GetReason(), exceeded(g)), "; "))
}

// exceeded says why an agent is over a budget although it has nothing left to leave out; "" = it is not.
func exceeded(g *v1.Governor) string {
	if g.GetExceeded() == "" && g.GetStage() == "full" {
		return g.GetReason() // an older agent
	}
	return g.GetExceeded()
}

// probesText counts files by what became of them.
func probesText(h *v1.Health) string {
	text := fmt.Sprintf("%d of %d attached", attached(h), len(h.GetProbes()))
	if n := h.GetOmitted()["probes"]; n > 0 {
		text += fmt.Sprintf(", +%d more", n)
	}
	unheard := 0
	for _, p := range h.GetProbes() {
		if isAttached(p) && p.GetReason() != "" {
			unheard++
		}
	}
	if unheard > 0 {
		text += fmt.Sprintf(" (%d without a call so far)", unheard)
	}
	for _, state := range []string{"canary", "suspended", "denied"} {
		n := 0
		for _, p := range h.GetProbes() {
			if p.GetState() == state {
				n++
			}
		}
		if state == "denied" {
			n = deniedBuilds(h)
		}
		if n > 0 {
			text += fmt.Sprintf(", %d %s", n, state)
		}
	}
	return text
}

// refusedGates are the tests of the host that did not pass.
func refusedGates(h *v1.Health) []*v1.Gate {
	return slices.DeleteFunc(slices.Clone(h.GetGates()), func(g *v1.Gate) bool { return g.GetState() == "passed" })
}

// sampledText says how much was not looked at, on purpose.
func sampledText(h *v1.Health) string {
	var heads, bytes uint64
	for _, l := range h.GetCgroupLosses() {
		if l.GetReason() == sampledReason {
			heads, bytes = plus(heads, l.GetHeads()), plus(bytes, l.GetBytes())
		}
	}
	if heads+bytes == 0 {
		return ""
	}
	return fmt.Sprintf("%s and %s were not looked at, to keep the budget (a call has a request and a response)", plural(heads, "message"), size(bytes))
}

// loser is a cgroup that lost calls on a node.
type loser struct {
	node, cgroup        string
	reasons             []string
	calls, heads, bytes uint64
}

func losers(agents []*v1.Agent) []*loser {
	var list []*loser
	for _, a := range agents {
		at := map[string]*loser{}
		for _, c := range a.GetHealth().GetCgroupLosses() {
			if c.GetReason() == sampledReason {
				continue
			}
			l := at[c.GetCgroup()]
			if l == nil {
				l = &loser{node: a.GetNode(), cgroup: c.GetCgroup()}
				at[c.GetCgroup()] = l
				list = append(list, l)
			}
			l.calls, l.heads, l.bytes = plus(l.calls, c.GetCalls()), plus(l.heads, c.GetHeads()), plus(l.bytes, c.GetBytes())
			l.reasons = append(l.reasons, fmt.Sprintf("%s %d", c.GetReason(), c.GetHeads()))
		}
	}
	slices.SortStableFunc(list, func(a, b *loser) int {
		return cmp.Or(cmp.Compare(b.heads, a.heads), cmp.Compare(b.bytes, a.bytes), cmp.Compare(a.node, b.node), cmp.Compare(a.cgroup, b.cgroup))
	})
	return list
}

// printLosers says which cgroups lost calls between their programs and the agent.
func printLosers(w World, agents []*v1.Agent) error {
	list := losers(agents)
	if len(list) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(w.Stdout); err != nil {
		return err
	}
	t := newTable(w, false, column{head: "NODE", max: 32}, column{head: "CGROUP THAT LOST", max: 60}, column{head: "MESSAGES", right: true},
		column{head: "READS+WRITES", right: true}, column{head: "BYTES", right: true}, column{head: "WHY", wraps: true})
	for _, l := range list[:min(len(list), maxLosers)] {
		if err := t.Add(text(l.node), cell{l.cgroup, bold}, text(number(l.heads)), text(number(l.calls)), text(size(l.bytes)), text(strings.Join(l.reasons, ", "))); err != nil {
			return err
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if n := len(list) - maxLosers; n > 0 {
		_, err := fmt.Fprintf(w.Stdout, "… and %s (spile agents -o json shows all)\n", plural(uint64(n), "more cgroup"))
		return err
	}
	return nil
}

// tellCost calls tell for each thing that an agent does about its cost and safety, once it is known.
func tellCost(now time.Time, h *v1.Health, tell func(key, text string) error) error {
	g := h.GetGovernor()
	if text := degraded(now, g); text != "" {
		if err := tell(fmt.Sprint(g.GetStage(), g.GetSince().AsTime().UnixNano()), "less is taken in: "+text); err != nil {
			return err
		}
	}
	if why := exceeded(g); why != "" {
		// Its figures change; what it is about does not.
		kind, _, _ := strings.Cut(why, " ")
		if err := tell("exceeded "+kind+g.GetStage(), "over budget: "+why); err != nil {
			return err
		}
	}
	for _, d := range h.GetDenials() {
		if err := tell("denied "+allowName(d), "denied: "+cmp.Or(d.GetPath(), "a file that was gone")+" (build id "+orNone(d.GetBuildId())+") is not probed any more: "+
			whyDenied(d)); err != nil {
			return err
		}
	}
	for _, gate := range refusedGates(h) {
		if err := tell("gate "+gate.GetName(), "gate "+gate.GetName()+" "+gate.GetState()+": "+gate.GetDetail()); err != nil {
			return err
		}
	}
	return nil
}
