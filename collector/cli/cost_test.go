package cli

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func statusOf(t *testing.T, h *v1.Health) string {
	t.Helper()
	var out strings.Builder
	if err := printStatus(World{Stdout: &out, Now: func() time.Time { return noon }}, "here", &v1.GetStatusResponse{}, []*v1.Agent{{Node: "n1", Health: h}}); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

func TestStatusSaysWhatIsLeftOutAndWhy(t *testing.T) {
	h := &v1.Health{
		Governor: &v1.Governor{Stage: "sampled", Since: timestamppb.New(noon.Add(-90 * time.Second)), AgentCores: 1.234, ProbeCores: 0.5, AgentBudgetCores: 1,
			Cgroup: "/noisy\x1b[31m", Reason: "the agent used 1.23 cores over 10 s; one connection in 4 is kept"},
		Gates: []*v1.Gate{{Name: "preempt", State: "passed", Detail: "fine"}, {Name: "uretprobe_seccomp", State: "refused", Detail: "a child was killed"}},
		Probes: []*v1.Probe{{Library: "OpenSSL", Path: "/a", State: "attached", Reason: "no call so far"}, {Library: "OpenSSL", Path: "/b", State: "suspended", Reason: "too dear"},
			{Library: "OpenSSL", Path: "/c", State: "denied", Reason: "it crashed"}, {Library: "GnuTLS", Path: "/d", State: "canary", Reason: "in one process"}},
		CgroupLosses: []*v1.CgroupLoss{{Cgroup: "/noisy", Reason: "pressure", Heads: 30, Calls: 90, Bytes: 5000}, {Cgroup: "/noisy", Reason: "ring_full", Heads: 1},
			{Cgroup: "/quiet", Reason: "budget", Heads: 2}, {Cgroup: "/noisy", Reason: "sampled", Heads: 800, Bytes: 70000}},
	}
	got := statusOf(t, h)
	for _, want := range []string{
		"cost agent 1.23 of 1.00 cores, probes in the programs about 0.50 cores",
		"degraded sampled (not every connection is read) for /noisy", "since 1m: the agent used 1.23 cores over 10 s; one connection in 4 is kept",
		"sampled 800 messages and 70kB were not looked at",
		"gate uretprobe_seccomp refused: a child was killed",
		"probes 1 of 4 attached (1 without a call so far), 1 canary, 1 suspended, 1 denied",
		"n1 OpenSSL /b too dear", "n1 OpenSSL /c it crashed",
		"n1 /noisy 31 90 5.0kB pressure 30, ring_full 1", "n1 /quiet 2 0 0B budget 2",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing:\n%s", want, got)
		}
	}
	for _, no := range []string{"\x1b", "gate preempt", "800 0", "OpenSSL /a"} {
		if strings.Contains(got, no) {
			t.Errorf("%q is there:\n%s", no, got)
		}
	}
}

func TestStatusOfAnAgentThatLeavesNothingOut(t *testing.T) {
	got := statusOf(t, &v1.Health{Governor: &v1.Governor{Stage: "full", AgentCores: 0.2, AgentBudgetCores: 1, ProbeBudgetCores: 2}})
	if !strings.Contains(got, "cost agent 0.20 of 1.00 cores, probes in the programs about 0.00 of 2.00 cores") || strings.Contains(got, "degraded") || strings.Contains(got, "CGROUP") {
		t.Errorf("%s", got)
	}
	if got := statusOf(t, &v1.Health{}); strings.Contains(got, "cost") || strings.Contains(got, "degraded") {
		t.Errorf("an older agent: %s", got)
	}
}

func TestResponsesThatNobodyReadAreNoStatus(t *testing.T) {
	counts := map[string]uint64{"200": 5, "0": 9}
	if got := statusCounts(counts); got != "unread×9 200×5" || counts["0"] != 9 {
		t.Errorf("%q, %v", got, counts)
	}
	if got := statusCounts(map[string]uint64{"404": 1}); got != "404×1" {
		t.Errorf("%q", got)
	}
}

func TestManyCgroupsThatLost(t *testing.T) {
	h := &v1.Health{}
	for i := range 200 {
		h.CgroupLosses = append(h.CgroupLosses, &v1.CgroupLoss{Cgroup: fmt.Sprintf("/c%03d", i), Reason: "ring_full", Heads: uint64(i), Bytes: math.MaxUint64})
	}
	got := statusOf(t, h)
	if !strings.Contains(got, "/c199") || strings.Contains(got, "/c189") || !strings.Contains(got, "and 190 more cgroups") {
		t.Errorf("%s", got)
	}
}

func TestTheLiveViewTellsOnce(t *testing.T) {
	var out strings.Builder
	l := &live{world: World{Stdout: &out, Now: func() time.Time { return noon }}, told: map[string]bool{}}
	a := &v1.Agent{Node: "n1", Health: &v1.Health{Rungs: map[string]string{"socket": "tp_btf"}, Governor: &v1.Governor{Stage: "full"}}}
	say := func(stage string, since int64) {
		a.Health.Governor = &v1.Governor{Stage: stage, Reason: "why", Since: &timestamppb.Timestamp{Seconds: since}}
		for range 3 {
			if err := l.agent(a); err != nil {
				t.Fatal(err)
			}
		}
	}
	say("full", 1)
	say("no_bodies", 2)
	say("full", 3)
	say("no_bodies", 4)
	if n := strings.Count(out.String(), "less is taken in: no_bodies"); n != 2 {
		t.Errorf("told %d times:\n%s", n, out.String())
	}
}

// TestStatusSaysThatABudgetIsExceededInVain: at the last stage, and where leaving out would not help.
func TestStatusSaysThatABudgetIsExceededInVain(t *testing.T) {
	const stuck = "the agent used 3.00 cores over 10 s, its budget is 1.00 (--cpu-budget), and there is nothing left to leave out"
	got := statusOf(t, &v1.Health{Governor: &v1.Governor{Stage: "sampled", Reason: stuck + "; one connection in 64 is kept", Exceeded: stuck}})
	if !strings.Contains(got, "over budget "+stuck+"\n") || !strings.Contains(got, "degraded sampled (not every connection is read): one connection in 64 is kept\n") {
		t.Errorf("%s", got)
	}
	if got := statusOf(t, &v1.Health{Governor: &v1.Governor{Stage: "full", Reason: "of an older agent"}}); !strings.Contains(got, "over budget of an older agent") {
		t.Errorf("%s", got)
	}
	if got := statusOf(t, &v1.Health{Governor: &v1.Governor{Stage: "sampled", Reason: "the agent used 2 cores"}}); strings.Contains(got, "over budget") {
		t.Errorf("%s", got)
	}
	if got := costText(&v1.Governor{AgentCores: 0.035, AgentBudgetCores: 0.001}); got != "agent 0.04 of 0.001 cores, probes in the programs about 0.00 cores" {
		t.Error(got)
	}
	var out strings.Builder
	l := &live{world: World{Stdout: &out, Now: func() time.Time { return noon }}, told: map[string]bool{}}
	for i := range 3 {
		h := &v1.Health{Rungs: map[string]string{"socket": "tp_btf"}, Governor: &v1.Governor{Stage: "sampled", Exceeded: fmt.Sprintf("the agent used %d cores", 3+i)}}
		if err := l.agent(&v1.Agent{Node: "n1", Connected: true, Health: h}); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Count(out.String(), "over budget: the agent used 3 cores") != 1 || strings.Count(out.String(), "over budget") != 1 {
		t.Errorf("the live view: %s", out.String())
	}
}
