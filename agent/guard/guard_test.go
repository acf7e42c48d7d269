package guard

import (
	"strings"
	"testing"
	"time"
)

const (
	sigABRT = 6
	sigFPE  = 8
	byUser  = 0    // SI_USER: kill(2)
	byQueue = -1   // SI_QUEUE: sigqueue(3)
	byTID   = -6   // SI_TKILL: tgkill(2), as raise(3) and abort(3) do
	fault   = 0x80 // SI_KERNEL
	mapped  = 1    // SEGV_MAPERR
)

func x86() *Guard { return New(335, 336) }

func TestOneCrash(t *testing.T) {
	for name, c := range map[string]struct {
		crash Crash
		want  Outcome
		says  string
	}{
		"segv in the uprobe page":         {Crash{Signal: sigSEGV, Code: mapped, InUprobeArea: true, InCall: true, Probed: true}, Blamed, "probed instructions"},
		"another tool's uprobe page":      {Crash{Signal: sigSEGV, Code: mapped, InUprobeArea: true, Probed: true}, Tried, "another tool"},
		"ill in the uprobe page":          {Crash{Signal: sigILL, Code: 1, InUprobeArea: true, InCall: true, Probed: true}, Blamed, "SIGILL"},
		"bus in the uprobe page":          {Crash{Signal: sigBUS, Code: 1, InUprobeArea: true}, Tried, "SIGBUS"},
		"ill at our site":                 {Crash{Signal: sigILL, Code: 2, AtSite: true, InCall: true, Probed: true}, Blamed, "at the probed"},
		"trap at our site":                {Crash{Signal: sigTRAP, Code: fault, AtSite: true, InCall: true, Probed: true}, Blamed, "at the probed"},
		"seccomp kills uretprobe":         {Crash{Signal: sigSYS, Code: bySeccomp, Syscall: 335, InCall: true, Probed: true}, Blamed, "335"},
		"seccomp kills uprobe":            {Crash{Signal: sigSYS, Code: bySeccomp, Syscall: 336, InCall: true, Probed: true}, Blamed, "336"},
		"seccomp kills another's uprobe":  {Crash{Signal: sigSYS, Code: bySeccomp, Syscall: 336, Probed: true}, Tried, "another tool"},
		"seccomp kills something else":    {Crash{Signal: sigSYS, Code: bySeccomp, Syscall: 41, InCall: true, Probed: true}, Own, "SIGSYS"},
		"somebody sends sys":              {Crash{Signal: sigSYS, Code: byUser, Syscall: 335, Probed: true}, Own, "sent"},
		"it kills itself with trap":       {Crash{Signal: sigTRAP, Code: byUser, BySelf: true, InCall: true, Probed: true}, Tried, "may have found"},
		"another's tgkill of a thread":    {Crash{Signal: sigTRAP, Code: byTID, InCall: true, Probed: true}, Own, "sent"},
		"it finds our breakpoint":         {Crash{Signal: sigTRAP, Code: byTID, BySelf: true, InCall: true, Probed: true}, Tried, "may have found"},
		"its own breakpoint in a call":    {Crash{Signal: sigTRAP, Code: fault, InCall: true, Probed: true}, Suspected, "not at a probe"},
		"brk of its own in a call (arm)":  {Crash{Signal: sigTRAP, Code: 1, InCall: true, Probed: true}, Suspected, "not at a probe"},
		"its own behind our site":         {Crash{Signal: sigTRAP, Code: fault, Behind: true, InCall: true, Probed: true}, Suspected, "not at a probe"},
		"ours, that it copied elsewhere":  {Crash{Signal: sigTRAP, Code: fault, OnBreakpoint: true, Probed: true}, Blamed, "breakpoint"},
		"ours, in a program left out":     {Crash{Signal: sigTRAP, Code: fault, OnBreakpoint: true}, Blamed, "breakpoint"},
		"it raises where ours may lie":    {Crash{Signal: sigTRAP, Code: byTID, BySelf: true, OnBreakpoint: true, Probed: true}, Own, "outside"},
		"ud2 where ours may lie":          {Crash{Signal: sigILL, Code: 2, OnBreakpoint: true, Probed: true}, Own, "outside"},
		"ill behind our site":             {Crash{Signal: sigILL, Code: 2, Behind: true, InCall: true, Probed: true}, Tried, "right behind"},
		"its own breakpoint, elsewhere":   {Crash{Signal: sigTRAP, Code: fault, Probed: true}, Own, "outside"},
		"somebody sends trap in a call":   {Crash{Signal: sigTRAP, Code: byUser, InCall: true, Probed: true}, Own, "sent"},
		"bad address at our site":         {Crash{Signal: sigSEGV, Code: mapped, AtSite: true, InCall: true, Probed: true}, Tried, "right behind"},
		"bad address behind our site":     {Crash{Signal: sigSEGV, Code: mapped, Behind: true, InCall: true, Probed: true}, Tried, "right behind"},
		"bad address in a call":           {Crash{Signal: sigSEGV, Code: mapped, InCall: true, Probed: true}, Suspected, "inside"},
		"a handler re-raises in a call":   {Crash{Signal: sigSEGV, Code: byTID, BySelf: true, AtSite: true, InCall: true, Probed: true}, Suspected, "inside"},
		"its handler raised after that":   {Crash{Signal: sigSEGV, Code: mapped, InCall: true, Probed: true}, Suspected, "inside"}, // the first signal counts
		"bus in a call":                   {Crash{Signal: sigBUS, Code: 2, InCall: true, Probed: true}, Suspected, "SIGBUS"},
		"bad address in no call":          {Crash{Signal: sigSEGV, Code: mapped, Probed: true}, Own, "outside"},
		"not probed at all":               {Crash{Signal: sigSEGV, Code: mapped}, Own, "outside"},
		"kill -SEGV":                      {Crash{Signal: sigSEGV, Code: byUser, InCall: true, Probed: true}, Own, "sent"},
		"kill -SEGV at our site":          {Crash{Signal: sigSEGV, Code: byUser, InCall: true, AtSite: true, Probed: true}, Own, "sent"},
		"sigqueue in the uprobe page":     {Crash{Signal: sigSEGV, Code: byQueue, InUprobeArea: true, Probed: true}, Own, "sent"},
		"abort in a call":                 {Crash{Signal: sigABRT, Code: byTID, BySelf: true, InCall: true, Probed: true}, Own, "SIGABRT"},
		"division by zero in a call":      {Crash{Signal: sigFPE, Code: 1, InCall: true, Probed: true}, Own, "SIGFPE"},
		"a signal that nobody knows here": {Crash{Signal: 40, Code: fault, InCall: true, AtSite: true}, Own, "signal 40"},
	} {
		t.Run(name, func(t *testing.T) {
			c.crash.Time, c.crash.Seen, c.crash.Build = time.Second, true, Build{1, 2}
			got := x86().Crash(c.crash)
			if got.Outcome != c.want || !strings.Contains(got.Why, c.says) {
				t.Errorf("got %v: %s; want %v saying %q", got.Outcome, got.Why, c.want, c.says)
			}
		})
	}
}

// Seccomp of old kernels ends a process without delivering a signal: nothing is known but the number and the call.
func TestUnseenSignal(t *testing.T) {
	for name, c := range map[string]struct {
		crash Crash
		want  Outcome
	}{
		"in a call":               {Crash{Signal: sigSYS, InCall: true}, Suspected},
		"in no call":              {Crash{Signal: sigSYS}, Own},
		"of nobody knows whom":    {Crash{Signal: sigSYS, InCall: true}, Own},
		"a trap of another":       {Crash{Signal: sigTRAP, InCall: true}, Suspected},
		"a trap of nobody":        {Crash{Signal: sigTRAP, InCall: true}, Own},
		"a bad address of nobody": {Crash{Signal: sigSEGV, Code: mapped, InCall: true, AtSite: true}, Own},
	} {
		t.Run(name, func(t *testing.T) {
			c.crash.Time, c.crash.Probed = 1, true
			if !strings.Contains(name, "nobody") {
				c.crash.Build = Build{1, 2}
			}
			if got := x86().Crash(c.crash); got.Outcome != c.want {
				t.Errorf("%+v, want %v", got, c.want)
			}
		})
	}
}

// A program that is not known is never tried, however often it crashes; a system call of a probe is certain all the same.
func TestUnknownBuild(t *testing.T) {
	g := x86()
	for i := range 10 {
		for _, seen := range []bool{false, true} {
			c := inCall
			c.Time, c.Seen, c.AtSite = time.Duration(i+1)*time.Second, seen, true
			if got := g.Crash(c); got.Outcome != Own || !strings.Contains(got.Why, "not known") {
				t.Fatalf("%+v: %+v", c, got)
			}
		}
	}
	g.Started(Build{}, 20*time.Second)
	if len(g.builds) != 0 {
		t.Errorf("remembered: %v", g.builds)
	}
	if ends := g.Tick(time.Hour); ends != nil {
		t.Errorf("ended: %v", ends)
	}
	if got := g.Crash(Crash{Time: time.Hour, Seen: true, Signal: sigSYS, Code: bySeccomp, Syscall: 336, InCall: true}); got.Outcome != Blamed {
		t.Errorf("a probe's system call: %+v", got)
	}
	if n := g.Counts(); n.Own != 20 || n.Blamed != 1 || n.Suspected != 0 {
		t.Errorf("counts %+v", n)
	}
}

// Where the kernel has no system calls for probes, their numbers mean nothing.
func TestSyscallsOfProbesAreOfOneArchitecture(t *testing.T) {
	if got := New().Crash(Crash{Time: 1, Build: Build{1, 2}, Seen: true, Signal: sigSYS, Code: bySeccomp, Syscall: 335, Probed: true}); got.Outcome != Own {
		t.Errorf("got %+v", got)
	}
}

var (
	inCall = Crash{Seen: true, Signal: sigSEGV, Code: mapped, InCall: true, Probed: true}
	beside = Crash{Seen: true, Signal: sigSEGV, Code: mapped, Probed: true}
	bare   = Crash{Seen: true, Signal: sigSEGV, Code: mapped}
)

// play judges crashes at their seconds and returns the outcomes.
func play(g *Guard, crashes ...any) (outcomes []Outcome) {
	for i := 0; i < len(crashes); i += 2 {
		c := crashes[i+1].(Crash)
		c.Time = time.Duration(crashes[i].(int)) * time.Second
		c.Build = Build{1, 2}
		outcomes = append(outcomes, g.Crash(c).Outcome)
	}
	return outcomes
}

func last(outcomes []Outcome) Outcome { return outcomes[len(outcomes)-1] }

func TestThreeSuspectedCrashesLeadToATrial(t *testing.T) {
	for name, c := range map[string]struct {
		crashes []any
		want    Outcome
	}{
		"two":                    {[]any{10, inCall, 20, inCall}, Suspected},
		"three":                  {[]any{10, inCall, 20, inCall, 30, inCall}, Tried},
		"three, too far apart":   {[]any{10, inCall, 300, inCall, 611, inCall}, Suspected},
		"three of the last four": {[]any{10, inCall, 300, inCall, 611, inCall, 620, inCall}, Tried},
		"as many elsewhere":      {[]any{10, inCall, 11, beside, 20, inCall, 21, beside, 29, beside, 30, inCall}, Suspected},
		"fewer elsewhere":        {[]any{10, inCall, 11, beside, 20, inCall, 21, beside, 30, inCall}, Tried},
		"once without probes":    {[]any{5, bare, 10, inCall, 20, inCall, 30, inCall}, Suspected},
		"long ago without":       {[]any{5, bare, 3610, inCall, 3620, inCall, 3630, inCall}, Tried},
	} {
		t.Run(name, func(t *testing.T) {
			if got := last(play(x86(), c.crashes...)); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestTrialAcquits(t *testing.T) {
	g := x86()
	play(g, 10, inCall, 20, inCall, 30, inCall)
	if got := play(g, 100, bare, 200, bare); last(got) != Acquitted {
		t.Fatalf("got %v", got)
	}
	if got := g.Tick(time.Hour); got != nil {
		t.Errorf("convicted after it was acquitted: %v", got)
	}
	if got := last(play(g, 300, inCall, 310, inCall, 320, inCall)); got != Suspected {
		t.Errorf("within the hour: %v", got)
	}
	trap := Crash{Seen: true, Signal: sigTRAP, Code: fault, AtSite: true, InCall: true, Probed: true}
	if got := last(play(g, 400, trap)); got != Blamed {
		t.Errorf("what is certain, within the hour: %v", got)
	}
	if got := last(play(g, 4000, inCall, 4010, inCall, 4020, inCall)); got != Tried {
		t.Errorf("after the hour: %v", got)
	}
	if got := g.Counts(); got.Acquitted != 1 || got.Blamed != 1 || got.Trials != 2 {
		t.Errorf("counts %+v", got)
	}
}

// One crash that leads to a trial takes one crash to acquit.
func TestStrongTrialAcquits(t *testing.T) {
	g := x86()
	behind := inCall
	behind.AtSite = true
	if got := play(g, 10, behind, 60, bare); got[0] != Tried || got[1] != Acquitted {
		t.Errorf("got %v", got)
	}
}

func TestTrialSaysHowOften(t *testing.T) {
	g := x86()
	for i := range 3 {
		c := inCall
		c.Time, c.Build = time.Duration(10+20*i)*time.Second, Build{1, 2}
		if v := g.Crash(c); i == 2 && (!strings.HasSuffix(v.Why, "3 times within 40s") || v.Trial != Trial) {
			t.Errorf("%+v", v)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	g := x86()
	tried := inCall
	tried.AtSite, tried.Build, tried.Time = true, Build{9, 9}, 1
	if got := g.Crash(tried); got.Outcome != Tried {
		t.Fatal(got)
	}
	for i := range 5 * maxBuilds {
		c := beside
		c.Time, c.Build = time.Duration(i+2), Build{1, uint64(i)}
		g.Crash(c)
	}
	if len(g.builds) != maxBuilds || g.Counts().Forgotten != 4*maxBuilds+1 {
		t.Errorf("%d builds, counts %+v", len(g.builds), g.Counts())
	}
	if g.builds[Build{9, 9}] == nil {
		t.Error("the one on trial was forgotten")
	}
}

func FuzzCrash(f *testing.F) {
	f.Add(int64(1), 11, 1, 335, uint16(3))
	f.Fuzz(func(t *testing.T, at int64, signal, code, nr int, bits uint16) {
		g := x86()
		for i := range 8 {
			v := g.Crash(Crash{
				Time: time.Duration(at) + time.Duration(i), Build: Build{0, uint64(bits >> 6 & 3)}, Signal: signal, Code: code, Syscall: nr,
				InCall: bits&1 != 0, AtSite: bits&2 != 0, InUprobeArea: bits&4 != 0, Probed: bits&8 != 0,
				Seen: bits&16 != 0, BySelf: bits&32 != 0, Behind: bits&256 != 0, OnBreakpoint: bits&512 != 0,
			})
			if code <= 0 && bits&48 == 16 && v.Outcome != Own {
				t.Fatalf("a signal that was sent is %v", v)
			}
			if bits>>6&3 == 0 && v.Outcome != Own && v.Outcome != Blamed {
				t.Fatalf("a program that nobody knows is %v", v)
			}
		}
		g.Tick(time.Duration(at))
	})
}
