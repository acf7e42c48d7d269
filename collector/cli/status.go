package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/spile/spile/proto/spile/v1"
)

func statusVerb(w World) *cobra.Command {
	var at where
	var out output
	cmd := &cobra.Command{
		Use: "status", Short: "Say how the collector and its agents are", Args: cobra.NoArgs,
		Long: "Say how the collector and its agents are: what is watched, what is lost and where, what cannot be\n" +
			"seen and why. Exits 0 whenever the collector answers.",
		Example: "  spile status\n  spile status -o json | jq .lag_batches",
	}
	at.flags(cmd.Flags(), w)
	out.flags(cmd.Flags())
	cmd.RunE = Do(func(ctx context.Context, _ []string) error {
		asJSON, err := out.json()
		if err != nil {
			return err
		}
		c, err := at.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		bounded, cancel := c.call(ctx)
		defer cancel()
		st, err := v1.NewAgentsClient(c).GetStatus(bounded, &v1.GetStatusRequest{})
		if err != nil {
			return c.explain(ctx, err)
		}
		if asJSON {
			return printLines(w.Stdout, st)
		}
		list, err := everyAgent(ctx, c)
		if err != nil {
			return err
		}
		return printStatus(w, c.place(), st, list)
	})
	return cmd
}

func printStatus(w World, name string, st *v1.GetStatusResponse, agents []*v1.Agent) error {
	now := w.Now()
	var l lines
	row := func(key, format string, args ...any) { l.add(key, fmt.Sprintf(format, args...)) }
	connected := uint64(0)
	for _, a := range agents {
		if a.GetConnected() {
			connected++
		}
	}
	row("collector", "%s at %s, up %s", orDash(st.GetVersion()), name, short(now.Sub(st.GetStarted().AsTime())))
	row("agents", "%d of %d connected", connected, len(agents))
	row("calls", "%d received, %d refused, %s", st.GetCallsReceived(), st.GetCallsRefused(), plural(st.GetDuplicates(), "duplicate batch"))
	inventory, behind := "", lagText(st.GetLagBatches())
	if n := loadingPartitions(st.GetCounts()); n > 0 {
		inventory, behind = fmt.Sprintf("loading (%s to go); so far ", plural(n, "partition")), "the inventory is loading"
	}
	row("inventory", "%s%s, %s, %s", inventory, plural(st.GetServices(), "service"), plural(st.GetEndpoints(), "endpoint"), plural(st.GetFindings(), "finding"))
	row("journal", "%s, %s", size(st.GetJournalBytes()), behind)
	for _, line := range stages(st.GetCounts()) {
		row("  "+line.stage, "%s", line.text)
	}
	for _, a := range agents {
		h := a.GetHealth()
		state := "connected"
		if !a.GetConnected() {
			state = "away"
		}
		row("", "")
		row("agent "+a.GetNode(), "%s, last seen %s, %s, clock %+.1fs%s", state, ago(now, a.GetLastSeen()),
			plural(a.GetCalls(), "call"), a.GetSkewSeconds(), skewNote(a.GetSkewSeconds()))
		if text := watching(a); text != "" {
			row("  watching", "%s", text)
			if h == nil {
				continue
			}
		} else if a.GetConnected() {
			row("  watching", "%s", targets(h))
		} else {
			row("  watched", "%s", targets(h))
		}
		row("  hooks", "%s", rungs(h))
		row("  probes", "%s", probesText(h))
		if text := unleased(h); text != "" {
			row("  no lease", "%s", text)
		}
		if text := costText(h.GetGovernor()); text != "" {
			row("  cost", "%s", text)
		}
		if text := exceeded(h.GetGovernor()); text != "" {
			row("  over budget", "%s", text)
		}
		if text := degraded(now, h.GetGovernor()); text != "" {
			row("  degraded", "%s", text)
		}
		if text := sampledText(h); text != "" {
			row("  sampled", "%s", text)
		}
		for _, g := range refusedGates(h) {
			row("  gate", "%s %s: %s", g.GetName(), g.GetState(), g.GetDetail())
		}
		row("  coverage", "%s", coverageText(h))
		if text := omittedText(h); text != "" {
			row("  left out", "%s", text)
		}
		for _, line := range stages(slices.DeleteFunc(slices.Clone(h.GetCounts()), ofCoverage)) {
			row("  "+line.stage, "%s", line.text)
		}
	}
	if err := l.print(w); err != nil {
		return err
	}
	return printTrouble(w, agents)
}

// watching says why an agent does not watch, as far as it is known; "" = it does, or did until it went away. What an earlier
// run watched says nothing of this one.
func watching(a *v1.Agent) string {
	switch h := a.GetHealth(); {
	case len(h.GetRungs()) > 0:
		return ""
	case !a.GetConnected():
		return "not known: it went away before it watched"
	case h == nil:
		return "not known yet: its first report has not come"
	}
	return "nothing yet: it is starting"
}

// unleased says how many attached files can be written while probes are in them, and why; "" = none.
func unleased(h *v1.Health) string {
	var why []string
	files := map[string]uint64{}
	for _, p := range h.GetProbes() {
		if reason := p.GetUnleased(); p.GetState() == "attached" && reason != "" {
			if files[reason]++; files[reason] == 1 {
				why = append(why, reason)
			}
		}
	}
	for i, reason := range why {
		why[i] = plural(files[reason], "attached file") + ", " + reason
	}
	return strings.Join(why, "; ")
}

// loadingPartitions is how much of the inventory is not there yet: until then its figures are too low.
func loadingPartitions(counts []*v1.Count) uint64 {
	for _, c := range counts {
		if c.GetStage() == "inventory" && c.GetName() == "loading_partitions" {
			return c.GetValue()
		}
	}
	return 0
}

func lagText(batches uint64) string {
	if batches == 0 {
		return "the inventory is up to date"
	}
	return "the inventory is " + plural(batches, "batch") + " behind"
}

func skewNote(seconds float64) string {
	if seconds > maxSkewSeconds || seconds < -maxSkewSeconds {
		return " (wrong: set its clock)"
	}
	return ""
}

// stageLine is all counts of one stage in a line: what was seen first, then what was lost and why.
type stageLine struct{ stage, text string }

func stages(counts []*v1.Count) []stageLine {
	var order []string
	seen, lost := map[string][]string{}, map[string][]string{}
	counts = slices.Clone(counts)
	slices.SortStableFunc(counts, func(a, b *v1.Count) int { return cmp.Compare(a.GetName(), b.GetName()) })
	for _, c := range counts {
		s := c.GetStage()
		if !slices.Contains(order, s) {
			order = append(order, s)
		}
		// What is zero is not worth reading here; -o json has it.
		switch text := fmt.Sprintf("%s %d", c.GetName(), c.GetValue()); {
		case c.GetValue() == 0:
		case c.GetLost():
			lost[s] = append(lost[s], text)
		default:
			seen[s] = append(seen[s], text)
		}
	}
	slices.SortStableFunc(order, func(a, b string) int { return cmp.Compare(stageRank(a), stageRank(b)) })
	var out []stageLine
	for _, s := range order {
		if len(seen[s])+len(lost[s]) == 0 {
			continue
		}
		text := cmp.Or(strings.Join(seen[s], ", "), "nothing seen") + "; lost: "
		if len(lost[s]) == 0 {
			text += "none"
		} else {
			text += strings.Join(lost[s], ", ")
		}
		out = append(out, stageLine{s, text})
	}
	return out
}

// stageRank orders stages as a call passes them; what is not known comes last.
func stageRank(stage string) int {
	line := []string{"kernel", "source", "flow", "parse", "call", "origin", "join", "ship", "governor", "guard", "intake", "journal", "inventory", "detect", "siem"}
	if i := slices.Index(line, stage); i >= 0 {
		return i
	}
	return len(line)
}
