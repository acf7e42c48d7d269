package gate

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is the child where Test starts it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Verb {
		if err := Child(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it loads eBPF programs")
	}
}

func TestThisHost(t *testing.T) {
	requireRoot(t)
	start := time.Now()
	r := Test(t.Context(), ThisHost())
	t.Logf("%+v in %v", r, time.Since(start))
	if len(r.Gates) != 2 || r.Gates[0].Name != UretprobeSeccomp || r.Gates[1].Name != Preempt {
		t.Fatalf("gates %+v", r.Gates)
	}
	for _, g := range r.Gates {
		if g.State == Unknown || g.Detail == "" || (g.State == Passed) != (g.Remedy == "") {
			t.Errorf("%+v", g)
		}
	}
	c := r.Costs
	if !c.Measured || c.EmulatedNs < 50 || c.SingleStepNs < c.EmulatedNs || c.ReturnNs < 10 || c.SingleStepNs > 1e6 {
		t.Errorf("costs %+v", c)
	}
	if c.Ns(true, false) != c.EmulatedNs || c.Ns(false, false) != c.SingleStepNs || c.Ns(true, true) != c.ReturnNs || c.Ns(false, true) != c.ReturnNs {
		t.Errorf("costs %+v are told wrong", c)
	}
}

// A filter that kills what the child does anyway stands for a kernel that lets it kill what probes do.
func TestSeccompThatKillsIsRefused(t *testing.T) {
	requireRoot(t)
	h := ThisHost()
	h.Kills = append(h.Kills, unix.SYS_WRITE)
	r := Test(t.Context(), h)
	refused := r.Refused(UretprobeSeccomp)
	if refused == nil || !strings.Contains(refused.Detail, "SIGSYS") || !strings.Contains(refused.Remedy, "6.14") {
		t.Errorf("gates %+v", r.Gates)
	}
	if !r.Costs.Measured {
		t.Error("what had been measured before is gone")
	}
	if r.Refused(Preempt) != nil {
		t.Error("one gate refuses another")
	}
}

// What cannot be tried is unknown, within the time limit, and nothing is left over.
func TestWhatCannotBeTriedIsUnknown(t *testing.T) {
	requireRoot(t)
	for name, c := range map[string]struct {
		child []string
		says  string
	}{
		"absent":            {[]string{"/nonexistent"}, "no such file"},
		"says nothing":      {[]string{"/bin/sleep", "60"}, "within"},
		"ends at once":      {[]string{"/bin/true"}, "ended"},
		"is something else": {[]string{"/bin/sh", "-c", "echo ready; exec cat"}, "says"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := ThisHost()
			h.Child = c.child
			start := time.Now()
			r := Test(t.Context(), h)
			if g := r.Gates[0]; g.State != Unknown || !strings.Contains(g.Detail, c.says) || g.Remedy == "" {
				t.Errorf("%+v, want it to say %q", g, c.says)
			}
			if r.Costs != Typical() {
				t.Errorf("costs %+v", r.Costs)
			}
			if took := time.Since(start); took > patience+time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// A child asks for no children: a test binary that does not know the verb would start itself for ever.
func TestChildHasNoChildren(t *testing.T) {
	t.Setenv(asChild, "1")
	h := ThisHost()
	h.Child = []string{"/bin/sh", "-c", "echo must not run"}
	if g := Test(context.Background(), h).Gates[0]; g.State != Unknown || !strings.Contains(g.Detail, "child") {
		t.Errorf("%+v", g)
	}
}

func TestProbeDeaths(t *testing.T) {
	for signal, want := range map[syscall.Signal]bool{
		unix.SIGSYS: true, unix.SIGILL: true, unix.SIGSEGV: true, unix.SIGTRAP: true, unix.SIGKILL: false, unix.SIGTERM: false, unix.SIGABRT: false,
	} {
		if isProbeDeath(signal) != want {
			t.Errorf("%v: want %v", signal, want)
		}
	}
}

func TestPreempt(t *testing.T) {
	const dynamic, none, full = "#1 SMP PREEMPT_DYNAMIC Debian", "#1 SMP Debian", "#1 SMP PREEMPT Debian"
	for name, c := range map[string]struct {
		k    kernel
		want State
		says string
	}{
		"holds":                    {kernel{release: "6.18.1", version: full, holds: true}, Passed, "bpf_preempt_disable"},
		"old":                      {kernel{release: "6.12.107+deb13", version: full}, Passed, "6.13"},
		"older":                    {kernel{release: "5.10.0-46", version: full}, Passed, "6.13"},
		"first":                    {kernel{release: "6.13.0", version: full}, Refused, "built with preemption"},
		"later":                    {kernel{release: "7.0.0-rc1", version: dynamic}, Refused, "not shown"},
		"server":                   {kernel{release: "6.18.1", version: none}, Passed, "without preemption"},
		"real time":                {kernel{release: "6.18.1", version: "#1 SMP PREEMPT_RT"}, Refused, "built with"},
		"booted without":           {kernel{release: "6.18.1", version: dynamic, commandLine: "quiet preempt=full preempt=none ro"}, Passed, "preempt=none"},
		"booted with lazy":         {kernel{release: "6.18.1", version: dynamic, commandLine: "preempt=lazy"}, Refused, "preempt=lazy"},
		"shown as voluntary":       {kernel{release: "6.18.1", version: dynamic, model: "none (voluntary) full lazy"}, Passed, "preempt=voluntary"},
		"shown as lazy":            {kernel{release: "6.18.1", version: dynamic, model: "none voluntary full (lazy)", commandLine: "preempt=none"}, Refused, "preempt=lazy"},
		"no types, and it matters": {kernel{release: "6.18.1", version: full, types: os.ErrNotExist}, Unknown, "types"},
		"no types, and it is old":  {kernel{release: "6.1.0", version: full, types: os.ErrNotExist}, Passed, "6.13"},
		"no version":               {kernel{release: "mine"}, Unknown, `"mine"`},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.k.preempt()
			if got.State != c.want || !strings.Contains(got.Detail, c.says) || (got.State == Passed) != (got.Remedy == "") || got.Name != Preempt {
				t.Errorf("%+v, want %s saying %q", got, c.want, c.says)
			}
		})
	}
}

func TestChildRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, order := range []string{"", "run", "run main 3", "run pushed x", "filter x", "exit"} {
		if answer, err := obey(strings.Fields(order)); err == nil {
			t.Errorf("%q: %q", order, answer)
		}
	}
}
