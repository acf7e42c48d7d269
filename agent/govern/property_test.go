package govern

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestPropertyOfAnyLoad drives governors with random loads, delays between samples and figures that are none.
func TestPropertyOfAnyLoad(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := Budget{Agent: r.Float64() * 2, Probes: r.Float64() * 2, Library: r.Float64() * 2}
		w := newWorld(b)
		agent, files := 0.0, map[string]float64{}
		cgroups := []Share{{Cgroup: 1}, {Cgroup: 2}, {Cgroup: 3}}
		var changed, raised time.Duration
		level, suspended := 0, 0
		for range 3000 {
			if r.IntN(30) == 0 {
				agent = r.Float64() * 3
				files = map[string]float64{"a": r.Float64() * 2, "b": r.Float64(), "c": r.Float64()}
				for i := range cgroups {
					cgroups[i].Events = r.Uint64N(1_000_000)
				}
			}
			w.now += time.Duration(1+r.IntN(2000)) * time.Millisecond
			if r.IntN(500) == 0 {
				w.now += time.Duration(r.IntN(100)) * time.Second // the agent was stopped
			}
			s := Sample{Now: w.now, Agent: agent * relief(w.d), Shares: cgroups}
			if r.IntN(300) == 0 {
				s.Agent = [...]float64{math.NaN(), math.Inf(-1), -1}[r.IntN(3)]
			}
			for name, cores := range files {
				if !w.gone[name] {
					s.Files = append(s.Files, File{Key: name, Name: name, Cores: cores})
				}
			}
			cgroup := w.d.Cgroup
			w.step(t, s)
			switch step := w.g.level - level; {
			case step < -1 || step > 1:
				t.Fatalf("seed %d: %d stages at once", seed, step)
			case step == 1:
				if w.now-raised < window {
					t.Fatalf("seed %d: two steps up within %v", seed, w.now-raised)
				}
				raised, changed = w.now, w.now
			case step == -1:
				if w.now-changed < minPatience {
					t.Fatalf("seed %d: a step down %v after another change", seed, w.now-changed)
				}
				changed = w.now
			case w.d.Cgroup != cgroup && w.d.Cgroup != 0:
				t.Fatalf("seed %d: from cgroup %d to %d", seed, cgroup, w.d.Cgroup)
			case w.d.Cgroup != cgroup:
				raised, changed = w.now, w.now
			}
			level = w.g.level
			suspended += len(w.d.Suspend) - len(w.d.Resume)
			if suspended != len(w.gone) || w.d.Stage == Detached != (len(w.g.detached) > 0) || (w.d.Stage == Full) != (w.d.Reason == "") {
				t.Fatalf("seed %d: %d are suspended, %v are gone, %+v", seed, suspended, w.gone, w.d)
			}
			if w.d.Changed && w.d.Since != w.now || math.IsNaN(w.d.Agent) || w.d.Agent < 0 {
				t.Fatalf("seed %d: %+v", seed, w.d)
			}
		}
		for range 6000 { // all is quiet: everything comes back
			w.now += time.Second
			w.step(t, Sample{Now: w.now})
		}
		if w.d.Stage != Full || w.d.OneIn != 1 || w.d.Cgroup != 0 || len(w.gone) != 0 {
			t.Fatalf("seed %d: after hours of quiet %+v, without probes %v", seed, w.d, w.gone)
		}
	}
}

// A constant load that nothing relieves reaches the top, and stays.
func TestPropertyOfLoadThatStays(t *testing.T) {
	for _, agent := range []float64{1.01, 2, 50} {
		g := New(Budget{Agent: 1})
		var d Decision
		for i := range 200 {
			d = g.Step(Sample{Now: time.Duration(i+1) * time.Second, Agent: agent, Shares: crowd()})
		}
		if d.Stage != Sampled || d.OneIn != maxOneIn {
			t.Errorf("%g cores: %+v", agent, d)
		}
	}
}
