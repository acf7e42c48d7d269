package govern

import (
	"strings"
	"testing"
	"time"
)

// Whoever is over a budget with nothing left to leave out says so, for as long as that lasts.
func TestNothingIsLeftToLeaveOut(t *testing.T) {
	w := newWorld(Budget{Agent: 1, Probes: 1})
	for i := range 200 {
		w.now += time.Second
		s := Sample{Now: w.now, Agent: 100, Shares: crowd()}
		if i > 150 {
			s.Agent, s.Fixed = 0.9, 3
		}
		w.step(t, s)
		switch {
		case i == 60 && w.d.Stuck != "":
			t.Errorf("stuck at %+v", w.d)
		case i == 120 && (w.d.OneIn != maxOneIn || !strings.Contains(w.d.Stuck, "nothing left")):
			t.Errorf("not stuck at %+v", w.d)
		}
	}
	if !strings.Contains(w.d.Stuck, "--probe-budget") {
		t.Errorf("%+v", w.d)
	}
	w.run(t, 20, steady(0.9))
	if w.d.Stuck != "" {
		t.Errorf("%+v", w.d)
	}
}

// An agent that is busy with something else leaves nothing out.
func TestWhatArrivesIsNotTheCause(t *testing.T) {
	w := newWorld(Budget{Agent: 1})
	w.quiet = true
	w.run(t, 100, steady(3))
	w.want(t)
	if !strings.Contains(w.d.Stuck, "not the cause") {
		t.Errorf("%+v", w.d)
	}
	w.quiet = false
	w.run(t, 25, steady(3))
	w.want(t, "101 no_bodies", "111 no_responses", "121 sampled 1/2")
	// The load goes, the agent stays busy: by and by everything is taken in again.
	w.quiet, w.trail = true, nil
	w.run(t, 400, steady(3.2))
	if w.d.Stage != Full || len(w.trail) != 3 || !strings.Contains(w.d.Stuck, "not the cause") {
		t.Errorf("went %v to %+v", w.trail, w.d)
	}
}

// One connection in 64 is little, but stands for much.
func TestWhatIsNotReadIsStillTheCause(t *testing.T) {
	w := newWorld(Budget{Agent: 1})
	for range 600 {
		w.now += time.Second
		s := Sample{Now: w.now, Agent: 1.5}
		for _, c := range crowd() {
			s.Shares = append(s.Shares, Share{Cgroup: c.Cgroup, Events: 100_000 / uint64(max(1, w.d.OneIn))})
		}
		w.step(t, s)
	}
	if w.d.OneIn != maxOneIn {
		t.Errorf("%v", w.trail)
	}
}

func TestFiguresAreReadable(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 0.00051: "0.00051", 0.05: "0.05", 1.234: "1.23", 300: "300.00"} {
		if got := cores(v); got != want {
			t.Errorf("%g is told as %s", v, got)
		}
	}
}
