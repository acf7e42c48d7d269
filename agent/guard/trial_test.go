package guard

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// start is a process of the same build that begins.
type start struct{}

// unseen is a crash of nobody knows which program.
type unseen struct{}

// tell plays what happens at its seconds and returns what became of the trials.
func tell(g *Guard, events ...any) (last Outcome) {
	for i := 0; i < len(events); i += 2 {
		at := events[i].(int)
		switch e := events[i+1].(type) {
		case start:
			g.Started(Build{1, 2}, time.Duration(at)*time.Second)
		case unseen:
			g.Crash(Crash{Time: time.Duration(at) * time.Second, Signal: sigSEGV})
		case Crash:
			last = play(g, at, e)[0]
		}
	}
	return last
}

func TestEndOfATrial(t *testing.T) {
	sent := Crash{Signal: sigSEGV, Code: byUser, Seen: true}
	behind := inCall
	behind.AtSite = true
	for name, c := range map[string]struct {
		events    []any // after three crashes in calls, the last of them in second 30
		convicted bool
		says      string
	}{
		"started and lives":                 {[]any{100, start{}}, true, "1 were started and 0 crashed"},
		"started at once":                   {[]any{31, start{}}, true, "1 were started"},
		"one of two crashes":                {[]any{100, start{}, 110, bare, 120, start{}}, true, "2 were started and 1 crashed"},
		"others kill it":                    {[]any{100, start{}, 300, sent}, true, "0 crashed"},
		"aborts, which no probe causes":     {[]any{100, start{}, 300, Crash{Seen: true, Signal: sigABRT, Code: byTID, BySelf: true}}, true, "0 crashed"},
		"nobody runs it":                    {nil, false, "0 started, 0 crashed"},
		"started before":                    {[]any{29, start{}}, false, "0 started"},
		"started, and crashes":              {[]any{100, start{}, 110, bare}, false, "1 started, 1 crashed"},
		"started, and crashes in flight":    {[]any{31, start{}, 32, inCall}, false, "1 started, 1 crashed"},
		"started, and crashes while probed": {[]any{100, start{}, 110, beside}, false, "1 started, 1 crashed"},
		"started, and an unknown crashes":   {[]any{100, start{}, 110, unseen{}}, false, "1 started, 1 crashed"},
		"an old process crashes":            {[]any{110, bare}, false, "0 started, 1 crashed"},
	} {
		t.Run(name, func(t *testing.T) {
			g := x86()
			tell(g, 10, inCall, 20, inCall, 29, start{})
			if got := tell(g, 30, inCall); got != Tried {
				t.Fatalf("got %v", got)
			}
			tell(g, c.events...)
			if got := g.Tick(629 * time.Second); got != nil {
				t.Errorf("ended early: %v", got)
			}
			ends := g.Tick(630 * time.Second)
			if len(ends) != 1 || ends[0].Build != (Build{1, 2}) || ends[0].Convicted != c.convicted || !strings.Contains(ends[0].Why, c.says) {
				t.Fatalf("got %+v, want convicted %v saying %q", ends, c.convicted, c.says)
			}
			if got := g.Tick(631 * time.Second); got != nil {
				t.Errorf("ended twice: %v", got)
			}
			if n := g.Counts(); n.Convicted+n.Undecided != 1 || (n.Convicted == 1) != c.convicted {
				t.Errorf("counts %+v", n)
			}
		})
	}
	t.Run("one crash, and nobody runs it", func(t *testing.T) {
		g := x86()
		tell(g, 10, behind)
		if ends := g.Tick(time.Hour); len(ends) != 1 || ends[0].Convicted {
			t.Errorf("got %+v", ends)
		}
	})
	t.Run("one crash, started and lives", func(t *testing.T) {
		g := x86()
		tell(g, 10, behind, 20, start{})
		if ends := g.Tick(time.Hour); len(ends) != 1 || ends[0].Convicted || !strings.Contains(ends[0].Why, "by chance") {
			t.Errorf("got %+v", ends)
		}
	})
	// It crashes each time soon after the probes are back, and never without.
	t.Run("three such crashes", func(t *testing.T) {
		g, now := x86(), 10
		for i, trial := range []time.Duration{Trial, 2 * Trial, 4 * Trial} {
			if got := tell(g, now, behind, now+10, start{}); got != Tried {
				t.Fatalf("crash %d: %v", i, got)
			}
			now += int(trial / time.Second)
			if ends := g.Tick(time.Duration(now) * time.Second); len(ends) != 1 || ends[0].Convicted != (i == 2) {
				t.Fatalf("trial %d: %+v", i, ends)
			}
			now += 60
		}
	})
	// A program that dies of itself now and then is never convicted, since no crash follows from the probes' return.
	t.Run("one such crash a day", func(t *testing.T) {
		g := x86()
		for day := range 10 {
			at := day*24*3600 + 10
			tell(g, at, behind, at+10, start{})
			if ends := g.Tick(time.Duration(at)*time.Second + 12*time.Hour); len(ends) != 1 || ends[0].Convicted {
				t.Fatalf("day %d: %+v", day, ends)
			}
		}
	})
}

// Who starts again before its crash was judged has started since that crash.
func TestStartBeforeTheJudgement(t *testing.T) {
	g := x86()
	tell(g, 10, inCall, 20, inCall, 31, start{}, 30, inCall)
	if ends := g.Tick(630 * time.Second); len(ends) != 1 || !ends[0].Convicted {
		t.Errorf("got %+v", ends)
	}
}

// After a trial that decided nothing the next one needs as many crashes again, and takes longer.
func TestUndecidedTrialsTakeLonger(t *testing.T) {
	g, now := x86(), 0
	three := func() Verdict {
		var v Verdict
		for range suspicion {
			if v.Outcome == Tried {
				t.Fatal("tried too early")
			}
			now++
			c := inCall
			c.Time, c.Build = time.Duration(now)*time.Second, Build{1, 2}
			v = g.Crash(c)
		}
		return v
	}
	for i, want := range []time.Duration{Trial, 2 * Trial, 4 * Trial, 8 * Trial, 8 * Trial} {
		if v := three(); v.Outcome != Tried || v.Trial != want {
			t.Fatalf("trial %d: %+v, want %v", i, v, want)
		}
		now += int(want / time.Second)
		if ends := g.Tick(time.Duration(now-1) * time.Second); ends != nil {
			t.Fatalf("trial %d ended early: %v", i, ends)
		}
		if ends := g.Tick(time.Duration(now) * time.Second); len(ends) != 1 || ends[0].Convicted {
			t.Fatalf("trial %d: %v", i, ends)
		}
	}
	three()
	tell(g, now+10, start{})
	now += int(8 * Trial / time.Second)
	if ends := g.Tick(time.Duration(now) * time.Second); len(ends) != 1 || !ends[0].Convicted {
		t.Fatalf("started and lived: %v", ends)
	}
	if v := three(); v.Trial != Trial {
		t.Errorf("after a decision: %+v", v)
	}
}

// Whatever happens in whatever order: nothing is done to a program without a fault in or at a probe, every crash is counted
// once, every trial ends once, and a program is convicted only of a start since, that did not crash.
func TestAnyOrder(t *testing.T) {
	signals := []int{sigILL, sigTRAP, sigABRT, sigBUS, sigFPE, sigSEGV, sigSYS, 9}
	codes := []int{byUser, byQueue, byTID, mapped, 2, fault}
	convicted, undecided, acquitted := uint64(0), uint64(0), uint64(0)
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 4))
		g := x86()
		guilty, runs := seed%2 == 0, seed%3 != 0 // while they are on trial
		now, crashes := time.Duration(1), uint64(0)
		lives := map[Build]int{} // of those on trial: starts without crashes
		for range 2000 {
			now += time.Duration(r.Int64N(int64(40 * time.Second)))
			for _, end := range g.Tick(now) {
				alive, tried := lives[end.Build]
				if !tried || end.Convicted && alive <= 0 || !end.Convicted && alive > 0 && !strings.Contains(end.Why, "by chance") {
					t.Fatalf("seed %d: %+v, on trial %v, alive %d", seed, end, tried, alive)
				}
				delete(lives, end.Build)
			}
			b := Build{1, r.Uint64N(4)}
			if r.IntN(20) == 0 {
				b = Build{}
			}
			_, onTrial := lives[b]
			if (!onTrial || runs) && r.IntN(4) == 0 {
				g.Started(b, now)
				if onTrial {
					lives[b]++
				}
				now++
			}
			c := Crash{
				Time: now, Build: b, Signal: signals[r.IntN(len(signals))], Code: codes[r.IntN(len(codes))],
				Syscall: 330 + r.IntN(10), Probed: !onTrial, Seen: r.IntN(8) != 0, BySelf: r.IntN(8) == 0,
			}
			if c.Probed && (guilty || r.IntN(2) == 0) {
				c.InCall = r.IntN(2) == 0
				c.AtSite = c.InCall && r.IntN(3) == 0
				c.Behind = c.InCall && !c.AtSite && r.IntN(3) == 0
				c.OnBreakpoint = r.IntN(10) == 0
				c.InUprobeArea = r.IntN(10) == 0
			}
			if onTrial && (guilty || !runs) {
				continue // without probes it does not crash
			}
			crashes++
			v := g.Crash(c)
			near := c.InCall || c.OnBreakpoint || c.InUprobeArea || c.Signal == sigSYS && (c.Syscall == 335 || c.Syscall == 336)
			acts := v.Outcome == Blamed || v.Outcome == Tried
			if acts && (!near || sent(c) || c.Signal == sigABRT || c.Signal == sigFPE || c.Signal == 9) {
				t.Fatalf("seed %d: %v for %+v", seed, v, c)
			}
			if b == (Build{}) && v.Outcome != Own && (v.Outcome != Blamed || !c.Seen) {
				t.Fatalf("seed %d: a program that nobody knows: %v for %+v", seed, v, c)
			}
			if v.Why == "" || (v.Trial != 0) != (v.Outcome == Tried) {
				t.Fatalf("seed %d: %+v", seed, v)
			}
			if isFault(c) && !sent(c) && v.Outcome == Own {
				for name := range lives {
					if name == b || b == (Build{}) {
						lives[name]--
					}
				}
			}
			switch v.Outcome {
			case Tried:
				lives[b] = 0
			case Acquitted, Blamed:
				if v.Outcome == Acquitted && !onTrial {
					t.Fatalf("seed %d: acquitted without a trial", seed)
				}
				delete(lives, b)
			}
		}
		n := g.Counts()
		if n.Blamed+n.Suspected+n.Own != crashes {
			t.Fatalf("seed %d: %d crashes, counts %+v", seed, crashes, n)
		}
		if left := n.Trials - n.Acquitted - n.Convicted - n.Undecided; left > n.Blamed+4 {
			t.Fatalf("seed %d: %d trials did not end: %+v", seed, left, n)
		}
		if !runs && n.Convicted > 0 {
			t.Errorf("seed %d: %d convicted that nobody ran", seed, n.Convicted)
		}
		convicted, undecided, acquitted = convicted+n.Convicted, undecided+n.Undecided, acquitted+n.Acquitted
	}
	if convicted == 0 || undecided == 0 || acquitted == 0 {
		t.Errorf("%d convicted, %d undecided, %d acquitted: not all of it was tried", convicted, undecided, acquitted)
	}
}
