package govern

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Stage is how much is taken in.
type Stage uint8

// Stages in the order in which they are reached.
const (
	Full Stage = iota
	NoBodies
	NoResponses
	Sampled
	Detached
)

func (s Stage) String() string {
	return [...]string{"full", "no_bodies", "no_responses", "sampled", "detached"}[min(s, Detached)]
}

const (
	// firstSampled is the level that keeps one connection in two; each above halves that again, up to maxOneIn.
	firstSampled = 3
	maxOneIn     = 64
	topLevel     = firstSampled + 5

	// librarySuspension is how long a library that is over its own budget is left alone.
	librarySuspension = 10 * time.Minute
	// causeShare of what the agent uses must be due to what arrives, by a rough estimate; else leaving it out is no remedy. At
	// its start on a large host the agent reads many files.
	causeShare = 0.05
	// maxFiles bounds the files that are measured; the agent probes fewer.
	maxFiles = 4096
)

// Budget is what may be used, in cores; 0 = no limit.
type Budget struct {
	Agent   float64 // by the agent's own threads
	Probes  float64 // by the programs, for all probes together
	Library float64 // by the programs, for the probes of one file
}

// Sample is what was measured since the last one.
type Sample struct {
	Now    time.Duration // since boot
	Agent  float64       // cores that the agent used
	Files  []File
	Shares []Share
	// Fixed is what probes cost that belong to no file that could be detached.
	Fixed float64
}

// File is one file with probes.
type File struct {
	Key   string // what names it to whoever detaches
	Name  string // for a person
	Cores float64
}

// Suspension is a file to detach until it is resumed.
type Suspension struct {
	Key, Reason string
}

// Decision is what holds from now on.
type Decision struct {
	Stage             Stage
	OneIn             uint32        // connections of which one is kept; 1 = all are
	Cgroup            uint64        // the one that is degraded; 0 = all
	Since             time.Duration // since boot: when the stage was reached; 0 = it never changed
	Reason            string        // why it is not full, for a person
	Agent             float64       // cores, over the last ten seconds, or since the last change
	Probes            float64
	Stuck             string // why a budget is exceeded although nothing is left to leave out; "" = it is not
	Changed           bool
	Suspend           []Suspension // files to detach now
	Resume            []string     // keys of files to attach again now
	bodies, responses bool
}

// Bodies reports whether only the beginning of messages is to be copied.
func (d Decision) Bodies() bool { return d.bodies }

// Responses reports whether nothing of responses is to be copied.
func (d Decision) Responses() bool { return d.responses }

// detached is a file that was detached to keep the budget of all probes.
type detached struct {
	key, name string
	cores     float64
}

// hot is a file that is measured on its own.
type hot struct {
	track
	name    string
	resumes time.Duration // when it is over its own budget: until then it is suspended
	seen    time.Duration
}

// Governor holds the state of both ladders.
type Governor struct {
	budget   Budget
	last     time.Duration // the sample before; 0 = none
	agent    track
	probes   track
	files    map[string]*hot
	shares   shares
	level    int
	cgroup   uint64        // 0 = all
	vain     time.Duration // since when what arrives is not the cause; 0 = it is
	detached []detached
	since    time.Duration
	why      string // the agent's level
	whyFile  string // what is detached
}

// New makes a Governor that takes in everything.
func New(b Budget) *Governor {
	agent := newTrack(b.Agent)
	agent.full = saturated
	return &Governor{
		budget: b, agent: agent, probes: newTrack(b.Probes), files: map[string]*hot{}, shares: shares{by: map[uint64]float64{}},
	}
}

// Step takes what was measured and says what holds from now on. Samples come in order of time, about one a second.
func (g *Governor) Step(s Sample) Decision {
	if g.last == 0 || s.Now <= g.last {
		g.last = max(g.last, s.Now)
		return g.decision(Decision{})
	}
	elapsed := s.Now - g.last
	g.last = s.Now
	g.shares.add(s.Shares, elapsed)
	total := s.Fixed
	for _, f := range s.Files {
		total += f.Cores
		g.measure(s.Now, elapsed, f)
	}
	var d Decision
	before, cgroup, level, gone := g.stage(), g.cgroup, g.level, len(g.detached)
	agent, probes := g.agent.see(s.Now, elapsed, s.Agent), g.probes.see(s.Now, elapsed, total)
	d.Agent, d.Probes = g.agent.mean(), g.probes.mean()
	g.libraries(s.Now, &d)
	switch {
	case probes == over && g.detach(s.Now, &d):
		g.agent.restart()
	case g.level > 0 && (agent == calm || g.inVain(s.Now)):
		g.down(s.Now)
	case agent == over:
		g.up(s.Now, &d)
	}
	if probes == over && len(d.Suspend) == 0 {
		d.Stuck = fmt.Sprintf("probes cost the watched programs %s cores over 10 s, the budget is %s (--probe-budget), and no file that could be detached is known for it",
			cores(g.probes.mean()), cores(g.budget.Probes))
	}
	if probes == calm && len(g.detached) > 0 {
		g.attach(s.Now, &d)
	}
	if g.stage() != before || g.level != level || g.cgroup != cgroup || len(g.detached) != gone {
		g.since, d.Changed = s.Now, true
	}
	return g.decision(d)
}

func (g *Governor) stage() Stage {
	if len(g.detached) > 0 {
		return Detached
	}
	return Stage(min(g.level, int(Sampled)))
}

func (g *Governor) decision(d Decision) Decision {
	d.Stage, d.Since, d.OneIn, d.Cgroup = g.stage(), g.since, g.oneIn(), g.cgroup
	d.bodies, d.responses = g.level >= int(NoBodies), g.level >= int(NoResponses)
	switch {
	case g.level > 0 && len(g.detached) > 0:
		d.Reason = g.whyFile + "; " + g.why
	case len(g.detached) > 0:
		d.Reason = g.whyFile
	case g.level > 0:
		d.Reason = g.why
	}
	return d
}

// up takes in less: of the cgroup that makes most of the work, or of all.
func (g *Governor) up(now time.Duration, d *Decision) {
	busiest := g.shares.busiest()
	why := fmt.Sprintf("the agent used %s cores over 10 s, its budget is %s (--cpu-budget)", cores(g.agent.mean()), cores(g.budget.Agent))
	if !g.isCause() {
		d.Stuck = why + "; what it takes in is not the cause, so that no more is left out"
		return
	}
	if g.level == topLevel && (g.cgroup == 0 || busiest == g.cgroup) {
		d.Stuck = why + ", and there is nothing left to leave out"
		return
	}
	g.why = why
	switch {
	case g.level == 0:
		g.level, g.cgroup = 1, busiest
	case g.cgroup != 0 && busiest != g.cgroup:
		g.cgroup = 0 // it is not that one alone, or not any more
	default:
		g.level++
	}
	g.agent.worse(now)
}

// isCause reports whether what arrives, or would if every connection were read, explains what the agent uses.
func (g *Governor) isCause() bool {
	return g.shares.cores()*float64(g.oneIn()) >= causeShare*g.agent.mean()
}

// inVain reports whether something has been left out for long enough without being the cause.
func (g *Governor) inVain(now time.Duration) bool {
	if g.agent.span < window || g.isCause() {
		g.vain = 0
		return false
	}
	if g.vain == 0 {
		g.vain = now
	}
	return now-g.vain >= g.agent.patience
}

// oneIn is how many connections there are for each that is kept.
func (g *Governor) oneIn() uint32 {
	if g.level < firstSampled {
		return 1
	}
	return 2 << (g.level - firstSampled)
}

// down takes in more.
func (g *Governor) down(now time.Duration) {
	if g.level--; g.level == 0 {
		g.cgroup, g.why = 0, ""
	}
	g.agent.better(now)
}

// detach takes the probes from the file that costs most. It reports whether there was one.
func (g *Governor) detach(now time.Duration, d *Decision) bool {
	key := ""
	var most float64
	for k, f := range g.files {
		cores := f.mean()
		if f.seen == now && f.resumes == 0 && !g.isDetached(k) && (cores > most || cores == most && cores > 0 && k < key) {
			key, most = k, cores
		}
	}
	if key == "" {
		return false
	}
	f := g.files[key]
	total := g.probes.mean()
	reason := fmt.Sprintf("probes cost the watched programs %s cores over 10 s, %s of them those of %s; the budget is %s (--probe-budget)",
		cores(total), cores(most), f.name, cores(g.budget.Probes))
	g.detached = append(g.detached, detached{key, f.name, most})
	g.whyFile = reason
	d.Suspend = append(d.Suspend, Suspension{key, reason})
	g.probes.worse(now)
	f.restart()
	return true
}

// attach tries the file again that was detached last.
func (g *Governor) attach(now time.Duration, d *Decision) {
	n := len(g.detached) - 1
	d.Resume = append(d.Resume, g.detached[n].key)
	g.detached = g.detached[:n]
	if n == 0 {
		g.whyFile = ""
	}
	g.probes.better(now)
}

// cores says a figure with two digits that matter.
func cores(v float64) string {
	if v > 0 && v < 0.1 {
		return strconv.FormatFloat(v, 'g', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

func (g *Governor) isDetached(key string) bool {
	return slices.ContainsFunc(g.detached, func(d detached) bool { return d.key == key })
}

// measure adds to the account of one file.
func (g *Governor) measure(now, elapsed time.Duration, f File) {
	h := g.files[f.Key]
	if h == nil {
		if len(g.files) >= maxFiles {
			return
		}
		h = &hot{track: newTrack(g.budget.Library)}
		g.files[f.Key] = h
	}
	h.name, h.seen = f.Name, now
	h.take(elapsed, f.Cores)
}

// libraries suspends each file that is over the budget of one, and resumes it when its time is over. Files that are gone
// are forgotten.
func (g *Governor) libraries(now time.Duration, d *Decision) {
	for key, h := range g.files {
		switch {
		case h.resumes != 0:
			if now >= h.resumes {
				h.resumes = 0
				h.restart()
				d.Resume = append(d.Resume, key)
			}
		case now-h.seen > librarySuspension && !g.isDetached(key):
			delete(g.files, key)
		case now == h.seen && !g.isDetached(key) && h.verdict(now) == over:
			h.resumes = now + librarySuspension
			d.Suspend = append(d.Suspend, Suspension{key, fmt.Sprintf(
				"its probes cost the watched programs %s cores over 10 s, the budget of one library is %s (--library-budget): it is left alone for %d minutes",
				cores(h.mean()), cores(g.budget.Library), int(librarySuspension.Minutes()))})
			h.restart()
		}
	}
	slices.Sort(d.Resume)
	slices.SortFunc(d.Suspend, func(a, b Suspension) int { return strings.Compare(a.Key, b.Key) })
}
