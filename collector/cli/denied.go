package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// maxUnprobed bounds the files and the builds that a person is shown; -o json has all.
const maxUnprobed = 20

// orNone says that a build id is none, rather than nothing.
func orNone(buildID string) string { return cmp.Or(buildID, "none") }

// deniedBuilds is how many builds of an agent are denied. An older agent names only files that are there.
func deniedBuilds(h *v1.Health) int {
	files := 0
	for _, p := range h.GetProbes() {
		if p.GetState() == "denied" && !isDenied(h, p) {
			files++
		}
	}
	return files + len(h.GetDenials())
}

// isDenied reports whether a denied file is told of by a denial: of its build, or of it alone.
func isDenied(h *v1.Health, p *v1.Probe) bool {
	return slices.ContainsFunc(h.GetDenials(), func(d *v1.Denial) bool {
		return d.GetBuildId() == p.GetBuildId() && (allowName(d) == d.GetBuildId() || d.GetPath() == p.GetPath())
	})
}

// allowName is what spile-agent allow takes.
func allowName(d *v1.Denial) string { return cmp.Or(d.GetName(), d.GetBuildId()) }

// whyDenied is the reason and, behind it, what was seen.
func whyDenied(d *v1.Denial) string {
	if d.GetEvidence() == "" {
		return d.GetReason()
	}
	return d.GetReason() + " (" + d.GetEvidence() + ")"
}

// printDenials names the builds that are not probed any more, whether somebody runs them now or not.
func printDenials(w World, agents []*v1.Agent) error {
	t := newTable(w, false, column{head: "NODE", max: 32}, column{head: "DENIED", max: 48}, column{head: "BUILD ID", max: 44},
		column{head: "SINCE"}, column{head: "WHY", wraps: true})
	n := 0
	now := w.Now()
	for _, a := range agents {
		for _, d := range a.GetHealth().GetDenials() {
			if n++; n > maxUnprobed {
				continue
			}
			why := join("; ", whyDenied(d), "spile-agent allow "+allowName(d)+" lets probes in again")
			name := cmp.Or(strings.TrimSpace(d.GetLibrary()+" "+d.GetPath()), "a file that was gone")
			if err := t.Add(text(a.GetNode()), cell{name, bold}, text(orNone(d.GetBuildId())), text(ago(now, d.GetSince())), text(why)); err != nil {
				return err
			}
		}
	}
	return finish(w, t, n, "more denied build")
}

// notProbed reports whether a file has no probes, or not in all who map it. What an attached one has to say is no gap.
func notProbed(p *v1.Probe) bool { return p.GetReason() != "" && !isAttached(p) }

// printProbes names the files that are not probed and why, each once: many containers may have it from one image.
func printProbes(w World, agents []*v1.Agent) error {
	t := newTable(w, false, column{head: "NODE", max: 32}, column{head: "NOT PROBED", max: 48}, column{head: "WHY", wraps: true})
	type row struct{ node, file, why string }
	times := map[row]int{}
	var order []row
	for _, a := range agents {
		for _, p := range a.GetHealth().GetProbes() {
			if !notProbed(p) || p.GetState() == "denied" && isDenied(a.GetHealth(), p) {
				continue
			}
			r := row{a.GetNode(), p.GetLibrary() + " " + p.GetPath(), p.GetReason()}
			if times[r]++; times[r] == 1 {
				order = append(order, r)
			}
		}
	}
	for _, r := range order[:min(len(order), maxUnprobed)] {
		file := r.file
		if times[r] > 1 {
			file += fmt.Sprintf(" ×%d", times[r])
		}
		if err := t.Add(text(r.node), text(file), text(r.why)); err != nil {
			return err
		}
	}
	return finish(w, t, len(order), "more file")
}

// finish prints a table of at most maxUnprobed of n rows, if there are any.
func finish(w World, t *table, n int, more string) error {
	if n == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(w.Stdout); err != nil {
		return err
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if n <= maxUnprobed {
		return nil
	}
	_, err := fmt.Fprintf(w.Stdout, "… and %s (spile agents -o json shows all)\n", plural(uint64(n-maxUnprobed), more))
	return err
}

// omittedText says what the report had no room for; "" = nothing.
func omittedText(h *v1.Health) string {
	names := map[string]string{"probes": "files", "coverage": "processes", "cgroup_losses": "losses of cgroups", "denials": "denied builds",
		"sites": "places of probes"}
	var parts []string
	for _, list := range slices.Sorted(maps.Keys(h.GetOmitted())) {
		if n := h.GetOmitted()[list]; n > 0 {
			parts = append(parts, fmt.Sprintf("+%d more %s", n, cmp.Or(names[list], list)))
		}
	}
	if parts == nil {
		return ""
	}
	return strings.Join(parts, ", ") + ": the agent's report had no room for them"
}
