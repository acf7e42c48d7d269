package govern

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// world answers what things cost while a decision holds.
type world struct {
	g     *Governor
	now   time.Duration
	d     Decision
	gone  map[string]bool // files without probes
	trail []string        // each change, as "second stage"
	quiet bool            // nothing arrives
}

// crowd is much work of many cgroups.
func crowd() []Share {
	return []Share{{Cgroup: 1, Events: 1e6}, {Cgroup: 2, Events: 1e6}, {Cgroup: 3, Events: 1e6}}
}

func newWorld(b Budget) *world {
	w := &world{g: New(b), now: time.Hour, gone: map[string]bool{}}
	w.d = w.g.Step(Sample{Now: w.now})
	return w
}

// run lets seconds pass; demand tells what the agent and each file would cost now if all were taken in.
func (w *world) run(t *testing.T, seconds int, demand func(second int) (agent float64, files map[string]float64, shares []Share)) {
	t.Helper()
	for i := range seconds {
		w.now += time.Second
		agent, files, shares := demand(i)
		s := Sample{Now: w.now, Shares: shares}
		s.Agent = agent * relief(w.d)
		if shares == nil && !w.quiet {
			s.Shares = crowd()
		}
		for _, name := range []string{"a", "b", "c"} {
			if cores, ok := files[name]; ok && !w.gone[name] {
				s.Files = append(s.Files, File{Key: name, Name: "lib" + name, Cores: cores})
			}
		}
		w.step(t, s)
	}
}

func (w *world) step(t *testing.T, s Sample) {
	t.Helper()
	w.d = w.g.Step(s)
	for _, x := range w.d.Suspend {
		if w.gone[x.Key] {
			t.Fatalf("%s is suspended twice", x.Key)
		}
		if x.Reason == "" {
			t.Fatalf("%s is suspended without a reason", x.Key)
		}
		w.gone[x.Key] = true
	}
	for _, key := range w.d.Resume {
		if !w.gone[key] {
			t.Fatalf("%s is resumed and was not suspended", key)
		}
		delete(w.gone, key)
	}
	if w.d.Changed {
		text := fmt.Sprintf("%d %s", int((w.now-time.Hour)/time.Second), w.d.Stage)
		if w.d.OneIn > 1 {
			text += fmt.Sprintf(" 1/%d", w.d.OneIn)
		}
		if w.d.Cgroup != 0 {
			text += fmt.Sprintf(" of %d", w.d.Cgroup)
		}
		w.trail = append(w.trail, text)
	}
}

// relief is what is left of the agent's work.
func relief(d Decision) float64 {
	switch {
	case d.OneIn > 1:
		return 0.5 / float64(d.OneIn)
	case d.Responses():
		return 0.5
	case d.Bodies():
		return 0.9
	}
	return 1
}

func steady(agent float64) func(int) (float64, map[string]float64, []Share) {
	return func(int) (float64, map[string]float64, []Share) { return agent, nil, nil }
}

func (w *world) want(t *testing.T, trail ...string) {
	t.Helper()
	if !reflect.DeepEqual(w.trail, trail) {
		t.Errorf("went\n  %s\nwant\n  %s", strings.Join(w.trail, "\n  "), strings.Join(trail, "\n  "))
	}
}

func TestWithinBudgetNothingIsLeftOut(t *testing.T) {
	w := newWorld(Budget{Agent: 1, Probes: 1})
	w.run(t, 600, steady(0.94))
	w.want(t)
	if w.d.Stage != Full || w.d.OneIn != 1 || w.d.Bodies() || w.d.Reason != "" || w.d.Agent < 0.93 {
		t.Errorf("%+v", w.d)
	}
}

// On as many processors as its budget has, an agent that wants more never takes all of them.
func TestASaturatedAgentIsOverItsBudget(t *testing.T) {
	w := newWorld(Budget{Agent: 1})
	w.run(t, 15, steady(0.97))
	if w.d.Stage != NoBodies {
		t.Errorf("%+v", w.d)
	}
}

func TestAShortPeakIsNoOverload(t *testing.T) {
	w := newWorld(Budget{Agent: 1})
	w.run(t, 300, func(s int) (float64, map[string]float64, []Share) {
		if s%10 < 4 {
			return 2, nil, nil // a mean of 0.8
		}
		return 0, nil, nil
	})
	w.want(t)
}

func TestStagesComeInOrderAndGo(t *testing.T) {
	w := newWorld(Budget{Agent: 1})
	w.run(t, 100, steady(30)) // at one in 16 it would be 0.94: enough, and no room to take in more
	w.want(t, "10 no_bodies", "20 no_responses", "30 sampled 1/2", "40 sampled 1/4", "50 sampled 1/8", "60 sampled 1/16")
	if !strings.Contains(w.d.Reason, "1.88 cores") || !strings.Contains(w.d.Reason, "--cpu-budget") {
		t.Errorf("reason %q", w.d.Reason)
	}
	w.trail = nil
	w.run(t, 400, steady(0.1))
	// A minute begins when the first mean is low, and after each step the next mean is known in ten seconds.
	w.want(t, "163 sampled 1/8", "233 sampled 1/4", "303 sampled 1/2", "373 no_responses", "443 no_bodies")
	w.run(t, 13, steady(0.1))
	if w.d.Stage != Full {
		t.Errorf("%+v", w.d)
	}
	if w.d.Reason != "" {
		t.Errorf("full, because %q", w.d.Reason)
	}
}

func TestSamplingEndsAtOneIn64(t *testing.T) {
	w := newWorld(Budget{Agent: 1})
	w.run(t, 600, steady(150))
	if last := w.trail[len(w.trail)-1]; last != "80 sampled 1/64" {
		t.Errorf("ended with %s", last)
	}
}

// A load that fits only while something is left out makes the governor try again and again, less and less often.
func TestTriesBecomeRarer(t *testing.T) {
	w := newWorld(Budget{Agent: 1})
	w.run(t, 4000, func(int) (float64, map[string]float64, []Share) {
		if w.d.Bodies() {
			return 0.6, nil, nil
		}
		return 1.2, nil, nil
	})
	w.want(t, "10 no_bodies", "80 full", "90 no_bodies", "220 full", "230 no_bodies", "480 full", "490 no_bodies",
		"980 full", "990 no_bodies", "1960 full", "1970 no_bodies", "2940 full", "2950 no_bodies", "3920 full", "3930 no_bodies")
}

func TestDearProbesAreTakenOutAtOnce(t *testing.T) {
	w := newWorld(Budget{Agent: 1, Probes: 2})
	w.run(t, 60, func(int) (float64, map[string]float64, []Share) {
		return 0.1, map[string]float64{"a": 0.5, "b": 1.5, "c": 1.2}, nil
	})
	w.want(t, "10 detached")
	if !w.gone["b"] || len(w.gone) != 1 || w.d.Bodies() || w.d.OneIn != 1 {
		t.Errorf("without probes: %v; %+v", w.gone, w.d)
	}
	for _, part := range []string{"3.20 cores", "1.50 of them", "libb", "2.00 (--probe-budget)"} {
		if !strings.Contains(w.d.Reason, part) {
			t.Errorf("%q does not tell %q", w.d.Reason, part)
		}
	}
}

func TestTheNextFileFollowsAndBothComeBack(t *testing.T) {
	w := newWorld(Budget{Probes: 1})
	w.run(t, 40, func(int) (float64, map[string]float64, []Share) {
		return 5, map[string]float64{"a": 1.1, "b": 3, "c": 0.2}, nil
	})
	w.want(t, "10 detached", "20 detached")
	w.trail = nil
	w.run(t, 200, func(int) (float64, map[string]float64, []Share) {
		return 5, map[string]float64{"a": 0.1, "b": 0.1, "c": 0.2}, nil
	})
	w.want(t, "90 detached", "160 full")
	if len(w.gone) != 0 {
		t.Errorf("still without probes: %v", w.gone)
	}
}

// While both are over, a file goes first, and what that brings the agent is measured before anything else is left out.
func TestAFileThatGoesRelievesTheAgent(t *testing.T) {
	w := newWorld(Budget{Agent: 1, Probes: 1})
	w.run(t, 40, func(int) (float64, map[string]float64, []Share) {
		if w.gone["a"] {
			return 0.8, map[string]float64{"a": 3}, nil
		}
		return 2, map[string]float64{"a": 3}, nil
	})
	w.want(t, "10 detached")
}

func TestProbesThatBelongToNoFileDetachNone(t *testing.T) {
	w := newWorld(Budget{Probes: 1})
	for range 60 {
		w.now += time.Second
		w.step(t, Sample{Now: w.now, Fixed: 5, Files: []File{{Key: "a", Name: "liba"}}})
	}
	w.want(t)
}

func TestOnlyTheBusyCgroupIsDegraded(t *testing.T) {
	w := newWorld(Budget{Agent: 1})
	busy := []Share{{Cgroup: 7, Events: 8e5}, {Cgroup: 8, Events: 1e5}, {Cgroup: 9, Events: 1e5}}
	w.run(t, 25, func(int) (float64, map[string]float64, []Share) { return 30, nil, busy })
	w.want(t, "10 no_bodies of 7", "20 no_responses of 7")
	// Another becomes as busy: the same stage for all, then the next.
	w.trail = nil
	w.run(t, 25, func(int) (float64, map[string]float64, []Share) {
		return 30, nil, []Share{{Cgroup: 7, Events: 8e5}, {Cgroup: 8, Events: 8e6}}
	})
	w.want(t, "30 no_responses", "40 sampled 1/2", "50 sampled 1/4")
	w.trail = nil
	w.run(t, 700, steady(0))
	if w.d.Stage != Full || w.d.Cgroup != 0 {
		t.Errorf("%+v", w.d)
	}
}

func TestBytesAreWorkToo(t *testing.T) {
	w := newWorld(Budget{Agent: 1})
	w.run(t, 10, func(int) (float64, map[string]float64, []Share) {
		return 2, nil, []Share{{Cgroup: 7, Events: 100, Bytes: 100 << 20}, {Cgroup: 8, Events: 20000}}
	})
	w.want(t, "10 no_bodies of 7")
}

func TestALibraryOverItsOwnBudgetRests(t *testing.T) {
	w := newWorld(Budget{Probes: 10, Library: 0.5})
	files := map[string]float64{"a": 0.4, "b": 0.6}
	w.run(t, 609, func(int) (float64, map[string]float64, []Share) { return 0, files, nil })
	if !w.gone["b"] || len(w.gone) != 1 {
		t.Fatalf("without probes: %v", w.gone)
	}
	files["b"] = 0.1
	w.run(t, 1000, func(int) (float64, map[string]float64, []Share) { return 0, files, nil })
	if len(w.gone) != 0 {
		t.Errorf("still without probes: %v", w.gone)
	}
	w.want(t) // the stage is not that of one library
}

func TestATimeThatStandsStillOrTurnsBackIsNoSample(t *testing.T) {
	w := newWorld(Budget{Agent: 1})
	for range 100 {
		w.step(t, Sample{Now: w.now, Agent: 50})
		w.step(t, Sample{Now: w.now - time.Minute, Agent: 50})
	}
	w.want(t)
}

func TestTablesAreBounded(t *testing.T) {
	g := New(Budget{Agent: 1, Library: 1})
	g.Step(Sample{Now: 1})
	for i := range 20 {
		s := Sample{Now: time.Duration(i+1) * time.Second}
		for k := range 1000 {
			s.Files = append(s.Files, File{Key: fmt.Sprint(i, ".", k)})
			s.Shares = append(s.Shares, Share{Cgroup: uint64(i*1000 + k + 1), Events: 1000})
		}
		g.Step(s)
	}
	if len(g.files) > maxFiles || len(g.shares.by) > maxShares {
		t.Errorf("%d files, %d cgroups", len(g.files), len(g.shares.by))
	}
	g.Step(Sample{Now: time.Hour})
	g.Step(Sample{Now: 2 * time.Hour})
	if len(g.files)+len(g.shares.by) != 0 {
		t.Errorf("still %d files, %d cgroups", len(g.files), len(g.shares.by))
	}
}
