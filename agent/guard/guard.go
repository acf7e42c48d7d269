// Package guard decides whether a program that crashed did so because it was probed.
//
// It hears of every crash in the host, of probed programs and others, and answers each with a Verdict. The kernel gives
// the facts (bpf.Crash); who detaches and remembers is agent/probe; guard only judges. It does no I/O, and time is what
// the crashes say.
//
//	a breakpoint was hit, or an instruction became illegal, at a site of     ─▶ Blamed: denied for good
//	ours; or, inside a probed call, the instruction pointer is in the
//	kernel's page for probed instructions, or seccomp killed the system
//	call of a probe
//	the latter two in no probed call: another tool may have probes, too      ─▶ Tried, after one crash
//	a bad address right behind our site; SIGTRAP that a program sent itself
//	inside a probed call, since it may have found our breakpoint
//	a fatal fault or a breakpoint of its own anywhere else inside a call     ─▶ Suspected; three in ten minutes: Tried
//	anything else: in no call, by abort(), by another process's kill()       ─▶ Own
//
// A program that copies its code elsewhere (onto huge pages, into a buffer to run it there) takes our breakpoints along,
// and the kernel does not know them there. Such a crash is in no call, since the probe did not run; it is told by where the
// breakpoint lay. Who maps a file where is not known any more when a program is gone, so that the last twelve bits of the
// address decide: ten sites in a libssl leave one chance in 400 that a breakpoint of the program's own lies alike.
//
// What is only suspected is found out by experiment, since a program may well have a bug inside a call of TLS:
//
//	           3 suspected crashes in 10 min,             its time is over, it was started and lived
//	           and not as many elsewhere                  (Tick)
//	(watched) ────────────────────────────────▶ on trial ──────────────────────────▶ convicted: denied for good
//	    ▲                                         │ │
//	    │ 1 h                                     │ │ it crashes without probes as well
//	    ├───────────── acquitted ◀────────────────┼─┘
//	    │                                         │ its time is over, and no start of it was seen that did not crash
//	    └───────────── undecided ◀────────────────┘ (Tick)
//
// On trial the files are detached, so whatever is true the harm ends with the crash that led to it. An
// acquitted program is probed again and is not suspected for an hour; what is blamed at once is blamed then too. A
// program that has crashed without probes within the last hour is not suspected at all.
//
// A program that nobody runs does not crash, so silence convicts nobody: only a start that was seen (Started), since the
// crash that led to the trial, and that did not end in a crash. Nor do less than three suspected crashes, each within an
// hour of the last or of the trial after it: a program that dies of itself once a day lives through any trial. Without a conviction the probes come back, and the next trial takes
// as many crashes as this one did. What is on record then makes it twice as long, and so on up to eight times: a program
// that is harmed but only forks, or is left out by --target so that its starts are not seen, is harmed ever more rarely.
//
// A crash whose signal was not seen names no executable. It leads to nothing by itself, unless it is certain, and nobody
// knows whose start it ends: it is taken from everybody's who is on trial.
//
// What it costs: a denied file is not decoded in any program. So whoever may run programs on the host can have a library
// denied by crashing in it on purpose; that is an error in the log and a reason in the coverage of every program that uses
// it, not silence.
//
// A program that --target leaves out shares the probed library, but its calls are not followed: only a crash at a
// breakpoint, in the kernel's page for probes, or of a probe's system call, speaks for it. That acts as in any other.
//
// A build is an executable: of an interpreter one script may crash and another start and live, and that convicts as well;
// a person can lift it (spile-agent allow). Memory is bounded: of maxBuilds programs that crashed, the one that was quiet
// longest is forgotten, trials last; Counts says how many.
package guard

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Build is one executable file. A new version is a new inode. The zero Build is one that is not known.
type Build struct{ Dev, Ino uint64 }

// Crash is the end of a process by a fault, or shortly after one.
type Crash struct {
	Time    time.Duration // since boot
	Build   Build
	Signal  int
	Code    int // si_code: 0 and below it was sent by a process (sigaction(2))
	Syscall int // the number, for SIGSYS

	Seen         bool // the signal's delivery was; otherwise only the exit status tells of it, and Code and Syscall are unknown
	BySelf       bool // the process sent it to itself
	InCall       bool // the thread was inside a probed call
	AtSite       bool // at the probed instruction of that call
	Behind       bool // right behind it
	OnBreakpoint bool // of SIGTRAP: the breakpoint lies in its page where one of ours does
	InUprobeArea bool // in the page where the kernel puts probed instructions and the return trampoline
	Probed       bool // something that the process maps was probed
}

// Outcome is what a crash leads to.
type Outcome uint8

const (
	Own       Outcome = iota // not ours: nothing is done
	Suspected                // perhaps ours: nothing is done yet
	Blamed                   // ours: deny what was probed, for good
	Tried                    // deny what was probed until Tick ends the trial or a later crash acquits
	Acquitted                // not ours after all: allow again what the trial had denied
)

func (o Outcome) String() string {
	return [...]string{"own", "suspected", "blamed", "tried", "acquitted"}[o]
}

// Verdict is the answer to one crash.
type Verdict struct {
	Outcome Outcome
	Why     string // for a person
	// Trial is how long the trial of a Tried build takes at most.
	Trial time.Duration
}

// End is the end of a trial whose time is over.
type End struct {
	Build
	Convicted bool   // else allow again what the trial had denied
	Why       string // for a person
}

// Numbers of signals, the same on all architectures that the agent runs on (signal(7)).
const (
	sigILL  = 4
	sigTRAP = 5
	sigBUS  = 7
	sigSEGV = 11
	sigSYS  = 31
)

const bySeccomp = 1 // SYS_SECCOMP, a si_code of SIGSYS

// Trial is how long a build must not crash without probes to be convicted. After one that decided nothing the next one
// takes twice as long, up to maxDoubled times.
const Trial = 10 * time.Minute

const (
	suspicion = 3                // suspected crashes of one build, within window, that lead to a trial
	window    = 10 * time.Minute //
	amnesty   = time.Hour        // how long an acquitted build is not suspected
	memory    = time.Hour        // how long a crash speaks: without probes for a build, with them against it
	// detaching: processes that were inside a call when the probes went may still crash of them.
	detaching  = 3 * time.Second
	maxBuilds  = 1024
	maxDoubled = 3
)

// Counts are what became of crashes.
type Counts struct {
	Blamed, Suspected, Own uint64 // crashes
	Trials                 uint64
	Acquitted              uint64 // trials that ended so
	Convicted, Undecided   uint64
	Forgotten              uint64 // builds, to stay within bounds
}

// Guard remembers who crashed how. One goroutine uses it.
type Guard struct {
	probeSyscalls []int
	builds        map[Build]*record
	counts        Counts
}

// record is what is known of one build.
type record struct {
	suspected, own history
	seen           time.Duration
	bare           time.Duration // the last crash without probes; 0 = none
	tried          time.Duration // when the trial began; 0 = not on trial
	needs, without int           // crashes without probes that acquit, and those there were
	started        time.Duration // the last start seen; 0 = none
	starts, fell   int           // on trial: starts seen, and crashes of whatever origin
	undecided      int           // trials in a row
	against        int           // suspected crashes in a row, each within memory of the one before or of a trial's end
	last           time.Duration // when that was
	amnesty        time.Duration // until then not suspected
}

// history is the times of the last crashes of a kind.
type history [suspicion]time.Duration

func (h *history) add(at time.Duration) { copy(h[1:], h[:]); h[0] = at }

// full reports whether as many crashes as suspicion takes fell within the window before now.
func (h *history) full(now time.Duration) bool {
	oldest := h[len(h)-1]
	return oldest != 0 && now-oldest <= window
}

// New makes a guard. probeSyscalls are the system calls that the kernel itself makes a probed program do: on x86-64 335
// (uretprobe, Linux 6.11) and 336 (uprobe, 6.18); elsewhere there are none.
func New(probeSyscalls ...int) *Guard {
	return &Guard{probeSyscalls: probeSyscalls, builds: map[Build]*record{}}
}

// Counts returns the totals.
func (g *Guard) Counts() Counts { return g.counts }

// Started hears of a process that began to run an executable. Only of those that have crashed before it is remembered.
func (g *Guard) Started(build Build, now time.Duration) {
	b := g.builds[build]
	if b == nil {
		return
	}
	b.started = now
	if b.tried != 0 && now > b.tried {
		b.starts++
	}
}

// Crash judges one crash.
func (g *Guard) Crash(c Crash) Verdict {
	if c.Build == (Build{}) {
		return g.unknown(c)
	}
	b := g.record(c)
	strength, why := g.evidence(c)
	if strength == certain {
		g.counts.Blamed++
		b.tried, b.undecided, b.against = 0, 0, 0 // nothing is left to find out
		return Verdict{Outcome: Blamed, Why: why}
	}
	fault := isFault(c) && !sent(c)
	if b.tried != 0 {
		return g.onTrial(b, c, fault || strength == strong)
	}
	if fault && !c.Probed && !c.InCall && !c.InUprobeArea {
		b.bare = c.Time
	}
	if strength == none {
		g.counts.Own++
		b.own.add(c.Time)
		return Verdict{Outcome: Own, Why: why}
	}
	g.counts.Suspected++
	b.suspected.add(c.Time)
	if c.Time-b.last > memory {
		b.against = 0
	}
	b.against, b.last = b.against+1, c.Time
	switch {
	case b.amnesty > c.Time:
		return Verdict{Outcome: Suspected, Why: why + "; but it crashed without probes too when that was tried"}
	case b.bare != 0 && c.Time-b.bare <= memory:
		return Verdict{Outcome: Suspected, Why: why + "; but it crashed without probes too"}
	case strength == strong:
		g.counts.Trials++
		return Verdict{Tried, why, b.begin(c.Time, 1)}
	case b.suspected.full(c.Time) && b.own.full(c.Time):
		return Verdict{Outcome: Suspected, Why: why + "; but it crashes as often elsewhere"}
	case b.suspected.full(c.Time):
		g.counts.Trials++
		within := c.Time - b.suspected[suspicion-1]
		why = fmt.Sprintf("%s, %d times within %s", why, suspicion, within.Round(time.Second))
		return Verdict{Tried, why, b.begin(c.Time, suspicion)}
	}
	return Verdict{Outcome: Suspected, Why: why}
}

// unknown judges a crash of nobody knows which build: there is nobody to suspect.
func (g *Guard) unknown(c Crash) Verdict {
	strength, why := g.evidence(c)
	if strength == certain {
		g.counts.Blamed++
		return Verdict{Outcome: Blamed, Why: why}
	}
	g.counts.Own++
	for _, b := range g.builds {
		if b.tried != 0 && isFault(c) && !sent(c) {
			b.fell++
		}
	}
	return Verdict{Outcome: Own, Why: why + "; but of which program is not known"}
}

// begin puts a build on trial after so many crashes, and says for how long. Half as many without probes acquit it.
func (b *record) begin(now time.Duration, crashes int) time.Duration {
	b.tried, b.needs, b.without = now, (crashes+1)/2, 0
	b.suspected = history{}
	b.starts, b.fell = 0, 0
	if b.started > now { // while the crash waited to be judged
		b.starts = 1
	}
	return b.trial()
}

// trial is how long a trial takes.
func (b *record) trial() time.Duration { return Trial << min(b.undecided, maxDoubled) }

// onTrial judges a crash of a build whose probes were taken away.
func (g *Guard) onTrial(b *record, c Crash, fault bool) Verdict {
	g.counts.Own++
	if fault {
		b.fell++ // whatever it died of, nothing can be learned from its life
	}
	if !fault || c.Probed || c.InCall || c.Time-b.tried < detaching {
		return Verdict{Outcome: Own, Why: "it says nothing about the trial"}
	}
	if b.without++; b.without < b.needs {
		return Verdict{Outcome: Own, Why: "it crashed without probes"}
	}
	g.counts.Acquitted++
	b.tried, b.bare, b.amnesty, b.undecided, b.against = 0, c.Time, c.Time+amnesty, 0, 0
	return Verdict{Outcome: Acquitted, Why: "it crashes without probes as well"}
}

// Tick lets time pass and returns the trials whose time is over.
func (g *Guard) Tick(now time.Duration) []End {
	var ends []End
	for name, b := range g.builds {
		if b.tried == 0 || now-b.tried < b.trial() {
			continue
		}
		took := b.trial()
		b.tried, b.last = 0, now
		if b.starts > b.fell && b.against >= suspicion {
			g.counts.Convicted++
			ends = append(ends, End{name, true, fmt.Sprintf("it crashed inside its probed calls %d times; in %s without probes %d were started "+
				"and %d crashed", b.against, took, b.starts, b.fell)})
			b.undecided, b.against = 0, 0
			continue
		}
		g.counts.Undecided++
		b.undecided++
		why := fmt.Sprintf("in %s without probes no start of it was seen that did not crash (%d started, %d crashed), so nothing is known",
			took, b.starts, b.fell)
		if b.starts > b.fell {
			why = fmt.Sprintf("in %s without probes it did not crash (%d started, %d crashed), but it had done so only %d times before, and "+
				"less than %d may be by chance", took, b.starts, b.fell, b.against, suspicion)
		}
		ends = append(ends, End{name, false, fmt.Sprintf("%s; if it crashes with probes as often again, the next trial takes %s", why, b.trial())})
	}
	slices.SortFunc(ends, func(a, b End) int { return cmp.Or(cmp.Compare(a.Dev, b.Dev), cmp.Compare(a.Ino, b.Ino)) })
	return ends
}

// record finds or makes what is known of a crash's build.
func (g *Guard) record(c Crash) *record {
	b := g.builds[c.Build]
	if b == nil {
		g.makeRoom()
		b = &record{}
		g.builds[c.Build] = b
	}
	b.seen = c.Time
	return b
}

func (g *Guard) makeRoom() {
	if len(g.builds) < maxBuilds {
		return
	}
	var oldest Build
	var quiet *record
	for name, b := range g.builds {
		if quiet == nil || (b.tried == 0) != (quiet.tried == 0) && b.tried == 0 || (b.tried == 0) == (quiet.tried == 0) && b.seen < quiet.seen {
			oldest, quiet = name, b
		}
	}
	delete(g.builds, oldest)
	g.counts.Forgotten++
}
