package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
)

func TestStatusWhileLoadingAndAfter(t *testing.T) {
	said := func(counts ...*v1.Count) string {
		var out bytes.Buffer
		if err := printStatus(World{Stdout: &out, Now: time.Now}, "here", &v1.GetStatusResponse{Counts: counts}, nil); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	loads := said(&v1.Count{Stage: "inventory", Name: "loading_partitions", Value: 61})
	if !strings.Contains(loads, "loading (61 partitions to go)") || strings.Contains(loads, "up to date") {
		t.Errorf("while loading:\n%s", loads)
	}
	after := said(&v1.Count{Stage: "inventory", Name: "loading_partitions"}, &v1.Count{Stage: "target", Name: "refused", Lost: true},
		&v1.Count{Stage: "flow", Name: "no_room", Value: 2, Lost: true})
	if strings.Contains(after, "loading") || !strings.Contains(after, "up to date") || strings.Contains(after, "target") {
		t.Errorf("afterwards:\n%s", after)
	}
	if !strings.Contains(after, "nothing seen; lost: no_room 2") {
		t.Errorf("a stage that only lost:\n%s", after)
	}
}

// TestStatusOfAnAgentThatDoesNotWatch: nothing of an earlier run, or of a default, is taken for what it watches.
func TestStatusOfAnAgentThatDoesNotWatch(t *testing.T) {
	hooks := map[string]string{"socket": "tp_btf"}
	for want, a := range map[string]*v1.Agent{
		"  watching  not known yet: its first report has not come\n": {Node: "n1", Connected: true},
		"  watching  nothing yet: it is starting\n":                  {Node: "n1", Connected: true, Health: &v1.Health{Targets: []string{"netns=self"}}},
		"  watching  not known: it went away before it watched\n":    {Node: "n1"},
		"  watched   netns=self\n":                                   {Node: "n1", Health: &v1.Health{Targets: []string{"netns=self"}, Rungs: hooks}},
		"  watching  everything\n":                                   {Node: "n1", Connected: true, Health: &v1.Health{Rungs: hooks}},
	} {
		var out bytes.Buffer
		if err := printStatus(World{Stdout: &out, Now: time.Now}, "here", &v1.GetStatusResponse{}, []*v1.Agent{a}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), want) {
			t.Errorf("want %q:\n%s", want, out.String())
		}
		if strings.Count(out.String(), "everything")+strings.Count(out.String(), "netns=self") > strings.Count(want, "everything")+strings.Count(want, "netns=self") {
			t.Errorf("want only %q:\n%s", want, out.String())
		}
	}
}

// TestStatusWrapsOnATerminal: a reason that runs over the edge is not read, and a program wants it in one line.
func TestStatusWrapsOnATerminal(t *testing.T) {
	h := &v1.Health{Rungs: map[string]string{"socket": "tp_btf"}, Gates: []*v1.Gate{{Name: "preempt", State: "refused", Detail: strings.Repeat("a reason of some words ", 20)}}}
	agents := []*v1.Agent{{Node: "n1", Connected: true, Health: h}}
	for width, longest := range map[int]int{80: 80, 120: 120, 0: 1000, 20: 1000} {
		var out bytes.Buffer
		w := World{Stdout: &out, Now: time.Now, Terminal: true, Width: width}
		if err := printStatus(w, "here", &v1.GetStatusResponse{}, agents); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > longest {
				t.Errorf("%d columns: a line of %d: %s", width, n, line)
			}
		}
		if got := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(got, strings.Repeat("a reason of some words ", 20)[:450]) {
			t.Errorf("%d columns: words are lost:\n%s", width, out.String())
		}
	}
}
