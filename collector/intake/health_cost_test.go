package intake

import (
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// costlyReport is what an agent says that is over its budget.
func costlyReport() *v1.Health {
	return &v1.Health{
		Governor: &v1.Governor{Stage: "sampled", Since: timestamppb.New(time.Unix(1700000000, 0)), AgentCores: 1.2, ProbeCores: 0.4,
			AgentBudgetCores: 1, ProbeBudgetCores: 2, Cgroup: "/kubepods.slice", Reason: "the agent used 1.20 cores"},
		Gates:        []*v1.Gate{{Name: "preempt", State: "passed", Detail: "bpf_preempt_disable is there"}},
		CgroupLosses: []*v1.CgroupLoss{{Cgroup: "/noisy", Reason: "pressure", Calls: 3, Bytes: 4, Heads: 5}},
		Probes: []*v1.Probe{{Library: "OpenSSL", State: "attached", Sites: []string{"SSL_read: entry, single_step"}, Hits: 7,
			Cost: durationpb.New(time.Second)}},
	}
}

func TestWhatAnAgentCostsIsKeptAsItIs(t *testing.T) {
	want := costlyReport()
	if got, c := report(t, want); !proto.Equal(got, want) || c.HealthRowsDropped+c.HealthAltered != 0 {
		t.Errorf("%v, %+v", got, c)
	}
}

func TestWhatAnAgentCostsIsBounded(t *testing.T) {
	long := strings.Repeat("é", 3000)
	strange := protowire.AppendBytes(protowire.AppendTag(nil, 999, protowire.BytesType), make([]byte, 2*maxHealthBytes))
	h := costlyReport()
	g, p := h.Governor, h.Probes[0]
	g.Stage, g.Cgroup, g.Reason = long, long, long
	g.AgentCores, g.ProbeCores, g.AgentBudgetCores, g.ProbeBudgetCores = math.NaN(), math.Inf(1), -3, math.Inf(-1)
	g.Since = &timestamppb.Timestamp{Seconds: math.MinInt64, Nanos: -1}
	for range 1000 {
		p.Sites = append(p.Sites, long)
	}
	p.Cost = &durationpb.Duration{Seconds: math.MaxInt64, Nanos: -5}
	h.Gates[0].Name, h.Gates[0].State, h.Gates[0].Detail = long, long, long
	h.CgroupLosses[0].Cgroup, h.CgroupLosses[0].Reason = long, long
	for _, m := range []proto.Message{g, g.Since, p.Cost, h.Gates[0], h.CgroupLosses[0]} {
		m.ProtoReflect().SetUnknown(strange)
	}
	got, c := report(t, h)
	if c.HealthAltered != 1 || c.HealthRowsDropped != 1001-maxSites {
		t.Errorf("%+v", c)
	}
	if size := proto.Size(got); size > maxHealthBytes {
		t.Errorf("%d bytes", size)
	}
	g = got.Governor
	if g.AgentCores != 0 || g.ProbeCores != maxCores || g.AgentBudgetCores != 0 || g.ProbeBudgetCores != 0 || g.Since != nil || got.Probes[0].Cost != nil {
		t.Errorf("%v, %v", g, got.Probes[0].Cost)
	}
	for name, text := range map[string]string{
		"stage": g.Stage, "gate": got.Gates[0].Name, "state": got.Gates[0].State, "reason": got.CgroupLosses[0].Reason,
	} {
		if len(text) > maxWordBytes {
			t.Errorf("%s of %d bytes", name, len(text))
		}
	}
	for name, text := range map[string]string{
		"cgroup": g.Cgroup, "why": g.Reason, "detail": got.Gates[0].Detail, "lost": got.CgroupLosses[0].Cgroup, "site": got.Probes[0].Sites[1],
	} {
		if len(text) > maxLineBytes {
			t.Errorf("%s of %d bytes", name, len(text))
		}
	}
	if negative, c := report(t, &v1.Health{Probes: []*v1.Probe{{Cost: durationpb.New(-time.Second)}}}); negative.Probes[0].Cost != nil || c.HealthAltered != 1 {
		t.Errorf("%v, %+v", negative, c)
	}
}
