package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spile/spile/agent/guard"
	"github.com/spile/spile/agent/probe"
	"github.com/spile/spile/agent/source"
	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
)

// registry is a host where slot 7 is libssl, which has a probe at siteAt, and process 5 maps libssl and libgnutls. Both are
// probed in all processes.
type registry struct {
	mu        sync.Mutex
	did       []string
	suspended bool
	by        string // who suspended last
	err       error
}

var (
	libssl    = target.Identity{Dev: 1, Ino: 10, BuildID: "ssl"}
	libgnutls = target.Identity{Dev: 1, Ino: 11, BuildID: "gnutls"}
)

func (r *registry) Slot(n uint32) (probe.Placed, bool) { return probe.Placed{ID: libssl}, n == 7 }

func (r *registry) Uses(p target.Process) []target.Identity {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case p != target.Process{PID: 5, Start: 300}:
		return nil
	case r.suspended:
		return []target.Identity{libgnutls}
	}
	return []target.Identity{libgnutls, libssl}
}

func (r *registry) InAll(uint64) []target.Identity {
	return r.Uses(target.Process{PID: 5, Start: 300})
}

func (r *registry) MayLie(among []target.Identity, address uint64) []target.Identity {
	if address%4096 == siteAt && slices.Contains(among, libssl) {
		return []target.Identity{libssl}
	}
	return nil
}

const siteAt = 0x530

// onBreakpoint is where a processor stops that executed the breakpoint there.
var onBreakpoint = 0x7f0000001000 + siteAt + breakpointBytes()

func (r *registry) note(did string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.did = append(r.did, did)
}

func (r *registry) Deny(id target.Identity, why, evidence string) error {
	r.note("deny " + id.BuildID + ": " + why + " (" + evidence + ")")
	return r.err
}

func (r *registry) Suspend(id target.Identity, by, why string, d time.Duration) bool {
	r.note("suspend " + id.BuildID)
	r.suspended, r.by = true, by
	return true
}

func (r *registry) Resume(id target.Identity, by string) bool {
	if by != r.by {
		r.note("resume of another")
		return false
	}
	r.note("resume " + id.BuildID)
	r.suspended = false
	return true
}

func (r *registry) done() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.did)
}

// died is a crash of process 5 at a second since boot.
func died(at int, k bpf.Crash) source.Process {
	if k.IP == 0 {
		k.IP = 0x1234
	}
	return source.Process{
		Kind: source.Crash, TGID: 5, Start: 3 * time.Second, Exe: bpf.FileID{Dev: 1, Ino: 2}, Comm: "shop", Time: time.Duration(at) * time.Second, Crash: k,
	}
}

// born is a process of the same executable that begins.
func born(at int) source.Process {
	p := died(at, bpf.Crash{})
	p.Kind, p.TGID, p.Start = source.Exec, 50, p.Time
	return p
}

func counted(c *crashes) map[string]uint64 {
	values := map[string]uint64{}
	for _, n := range c.counts() {
		values[n.GetName()] = n.GetValue()
	}
	return values
}

func testCrashes(r *registry) (*crashes, *bytes.Buffer) {
	var log bytes.Buffer
	g := newCrashes(r, r, slog.New(slog.NewTextHandler(&log, nil)))
	g.now = func() time.Duration { return 100 * time.Second }
	return g, &log
}

// judge plays crashes without the goroutine.
func (c *crashes) play(list ...source.Process) {
	for _, p := range list {
		c.hear(p)
		one := <-c.queue
		c.act(one, c.verdict(one))
	}
}

func TestBlamedIsDenied(t *testing.T) {
	for name, c := range map[string]struct {
		crash bpf.Crash
		want  []string
		says  string
	}{
		"the file of the call":        {bpf.Crash{Signal: 11, Code: 1, InUprobeArea: true, InCall: true, Slot: 7}, []string{"deny ssl"}, "in the uprobe page"},
		"at its site":                 {bpf.Crash{Signal: 4, Code: 2, IP: 0x7f0000001000 + siteAt, AtSite: true, InCall: true, Slot: 7}, []string{"deny ssl"}, "at the probed instruction"},
		"its breakpoint, in no call":  {bpf.Crash{Signal: 5, Code: 128, IP: onBreakpoint}, []string{"deny ssl"}, "breakpoint"},
		"all files, a slot of nobody": {bpf.Crash{Signal: 11, Code: 1, InUprobeArea: true, InCall: true, Slot: 9}, []string{"deny gnutls", "deny ssl"}, "in the uprobe page"},
		"behind the site":             {bpf.Crash{Signal: 5, Code: 128, IP: onBreakpoint + 4, AtSite: true, InCall: true, Slot: 7}, nil, ""},
		"its own breakpoint":          {bpf.Crash{Signal: 5, Code: 128, InCall: true, Slot: 7}, nil, ""},
		"another's, by its own hand":  {bpf.Crash{Signal: 5, Code: -6, BySelf: true, IP: onBreakpoint}, nil, ""},
		"its own":                     {bpf.Crash{Signal: 11, Code: 1}, nil, ""},
		"killed in a call":            {bpf.Crash{Signal: 11, Code: 0, InCall: true, Slot: 7}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := &registry{}
			g, log := testCrashes(r)
			g.play(died(10, c.crash))
			did := r.done()
			if len(did) != len(c.want) {
				t.Fatalf("did %q, want %q", did, c.want)
			}
			for i := range did {
				if !strings.HasPrefix(did[i], c.want[i]+":") || !strings.Contains(did[i], c.says) || !strings.Contains(did[i], "shop (5)") {
					t.Errorf("did %q, want %q saying %q", did[i], c.want[i], c.says)
				}
			}
			if n := strings.Count(log.String(), "level=WARN"); n != min(len(c.want), 1) || n == 1 && !strings.Contains(log.String(), "remedy=") {
				t.Errorf("log:\n%s", log)
			}
		})
	}
}

var inside = bpf.Crash{Signal: 11, Code: 1, InCall: true, Slot: 7}

func TestTrialOfAProgram(t *testing.T) {
	three := []source.Process{died(10, inside), died(20, inside), died(30, inside)}
	t.Run("convicted", func(t *testing.T) {
		r := &registry{}
		g, log := testCrashes(r)
		g.play(three...)
		g.started(born(40))
		g.end(31 * time.Second)
		g.end(30*time.Second + guard.Trial)
		g.end(31*time.Second + guard.Trial)
		if did := r.done(); len(did) != 2 || did[0] != "suspend ssl" || !strings.HasPrefix(did[1], "deny ssl: ") || !strings.Contains(did[1], "1 were started") {
			t.Errorf("did %q", did)
		}
		if !strings.Contains(log.String(), "stay out for good") || counted(g)["convicted"] != 1 {
			t.Errorf("counts %v, log:\n%s", counted(g), log)
		}
	})
	t.Run("undecided", func(t *testing.T) {
		r := &registry{}
		g, log := testCrashes(r)
		g.started(born(9))
		g.play(three...)
		g.end(29*time.Second + guard.Trial)
		if did := r.done(); !slices.Equal(did, []string{"suspend ssl"}) {
			t.Errorf("early: did %q", did)
		}
		g.end(30*time.Second + guard.Trial)
		g.end(31*time.Second + guard.Trial)
		if did := r.done(); !slices.Equal(did, []string{"suspend ssl", "resume ssl"}) || len(g.trials) != 0 {
			t.Errorf("did %q, on trial %v", did, g.trials)
		}
		if !strings.Contains(log.String(), "a trial decided nothing") || !strings.Contains(log.String(), "process=shop") || counted(g)["undecided"] != 1 {
			t.Errorf("counts %v, log:\n%s", counted(g), log)
		}
	})
	t.Run("acquitted", func(t *testing.T) {
		r := &registry{}
		g, log := testCrashes(r)
		g.play(three...)
		// libgnutls is still probed in it, but is not what is on trial.
		bare := bpf.Crash{Signal: 11, Code: 1}
		g.play(died(40, bare), died(50, bare))
		g.end(31*time.Second + guard.Trial)
		if did := r.done(); !slices.Equal(did, []string{"suspend ssl", "resume ssl"}) {
			t.Errorf("did %q, log:\n%s", did, log)
		}
		values := counted(g)
		for _, c := range g.counts() {
			if c.GetStage() != "guard" {
				t.Errorf("%v", c)
			}
		}
		if values["crashes_suspected"] != 3 || values["crashes_own"] != 2 || values["trials"] != 1 || values["acquitted"] != 1 || values["crashes_blamed"] != 0 {
			t.Errorf("counts %v", values)
		}
	})
}

// Who was allowed again and crashes again is denied again.
func TestDeniedAgain(t *testing.T) {
	r := &registry{}
	g, _ := testCrashes(r)
	trap := bpf.Crash{Signal: 5, Code: 128, IP: onBreakpoint, InCall: true, Slot: 7}
	g.play(died(100, trap), died(100, trap), died(102, trap))
	if did := r.done(); len(did) != 2 {
		t.Errorf("did %q", did)
	}
}

// unprobed is a host where nothing is probed.
type unprobed struct{ registry }

func (*unprobed) Uses(target.Process) []target.Identity { return nil }
func (*unprobed) InAll(uint64) []target.Identity        { return nil }

// A crash that only a probe can explain, where none is of ours, is told and leads to nothing.
func TestBlamedWithoutAFile(t *testing.T) {
	for name, k := range map[string]bpf.Crash{
		"tried":  {Signal: 11, Code: 1, InUprobeArea: true},
		"blamed": {Signal: 11, Code: 1, InUprobeArea: true, InCall: true},
	} {
		r := &unprobed{}
		var log bytes.Buffer
		g := newCrashes(r, r, slog.New(slog.NewTextHandler(&log, nil)))
		g.play(died(100, k))
		if did := r.done(); len(did) != 0 || !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "remedy=") || len(g.trials) != 0 {
			t.Errorf("%s: did %q, log:\n%s", name, did, &log)
		}
	}
}

// A program that --target leaves out maps the same libraries, and the probes lie in them for it as well.
func TestCrashOfAProgramThatIsNotFollowed(t *testing.T) {
	left := func(at int, k bpf.Crash) source.Process {
		p := died(at, k)
		p.TGID = 6
		return p
	}
	for name, c := range map[string]struct {
		crash bpf.Crash
		want  []string
	}{
		"our breakpoint":    {bpf.Crash{Signal: 5, Code: 128, IP: onBreakpoint}, []string{"deny ssl"}},
		"one of its own":    {bpf.Crash{Signal: 5, Code: 128, IP: onBreakpoint + 1}, nil},
		"of some probe":     {bpf.Crash{Signal: 11, Code: 1, InUprobeArea: true}, []string{"suspend gnutls", "suspend ssl"}},
		"not by probes":     {bpf.Crash{Signal: 11, Code: 1, IP: onBreakpoint}, nil},
		"it raises SIGTRAP": {bpf.Crash{Signal: 5, Code: -6, BySelf: true}, nil},
	} {
		r := &registry{}
		g, log := testCrashes(r)
		g.play(left(100, c.crash))
		did := r.done()
		if !slices.EqualFunc(did, c.want, strings.HasPrefix) {
			t.Errorf("%s: did %q, want %q; log:\n%s", name, did, c.want, log)
		}
	}
	// Without our probes it crashes of a probe as well: that is another tool's.
	r := &registry{}
	g, log := testCrashes(r)
	area := bpf.Crash{Signal: 11, Code: 1, InUprobeArea: true}
	g.play(left(100, area), left(110, area))
	if did := r.done(); !slices.Equal(did, []string{"suspend gnutls", "suspend ssl", "resume gnutls", "resume ssl"}) {
		t.Errorf("another tool: did %q, log:\n%s", did, log)
	}
}

// Crashes of programs that nobody knows are not those of one program: they lead to nothing, however many.
func TestCrashesOfUnknownPrograms(t *testing.T) {
	r := &registry{}
	g, log := testCrashes(r)
	for i := range 6 {
		p := died(10+i, inside)
		p.Exe, p.Crash.IP = bpf.FileID{}, 0
		g.play(p)
	}
	g.started(born(30))
	g.end(time.Hour)
	if did := r.done(); len(did) != 0 || log.Len() != 0 || counted(g)["crashes_own"] != 6 {
		t.Errorf("did %q, counts %v, log:\n%s", did, counted(g), log)
	}
}

// A denial that cannot be kept is in force, and that it will be forgotten is told.
func TestDenialThatIsNotKept(t *testing.T) {
	r := &registry{err: errors.New("keep it: no space left on device")}
	g, log := testCrashes(r)
	g.play(died(10, bpf.Crash{Signal: 5, Code: 128, IP: onBreakpoint, InCall: true, Slot: 7}))
	if !strings.Contains(log.String(), "no space left") || !strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("log:\n%s", log)
	}
}

// The ring's goroutine does not wait for the judge; what it could not judge is counted.
func TestCrashesNeverWait(t *testing.T) {
	r := &registry{}
	g, log := testCrashes(r)
	for range maxCrashes + 10 {
		g.hear(died(100, bpf.Crash{Signal: 5, Code: 128, IP: onBreakpoint, InCall: true, Slot: 7}))
	}
	if g.unjudged.Load() != 10 {
		t.Errorf("%d unjudged", g.unjudged.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { g.run(ctx); close(ended) }()
	for deadline := time.Now().Add(5 * time.Second); len(g.queue) > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-ended
	// They crashed together: that is denied and told once.
	if n := len(r.done()); n != 1 || strings.Count(log.String(), "level=WARN") != 1 {
		t.Errorf("denied %d times; log:\n%s", n, log)
	}
	if n := g.counts()[0]; n.GetName() != "crashes_blamed" || n.GetValue() != maxCrashes {
		t.Errorf("%v", n)
	}
}
