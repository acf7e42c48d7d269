package intake

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// crowdedReport is of a node with many files: the ones that matter are the last by path.
func crowdedReport(files int) *v1.Health {
	h := &v1.Health{}
	for i := range files {
		p := &v1.Probe{Library: "OpenSSL", Path: fmt.Sprintf("/%05d/%s/libssl.so.3", i, strings.Repeat("x", 400)), State: "attached",
			Cost: durationpb.New(time.Duration(i)), Sites: []string{"SSL_read: entry, single_step"}}
		switch files - 1 - i {
		case 0:
			p.State, p.Reason, p.Cost = "denied", "denied: it crashed", nil
		case 1:
			p.State, p.Reason, p.Cost = "suspended", "over budget", nil
		case 2:
			p.State, p.Reason, p.Cost = "failed", "no room", nil
		}
		h.Probes = append(h.Probes, p)
	}
	for i := range 100 {
		h.Coverage = append(h.Coverage, &v1.Coverage{Pid: uint32(i + 1), Process: "worker"})
	}
	return h
}

// TestWhatMattersIsKeptOfALongReport: the denied, the suspended, the others that are not probed, then the hottest.
func TestWhatMattersIsKeptOfALongReport(t *testing.T) {
	for _, files := range []int{900, 3000} {
		got, c := report(t, crowdedReport(files))
		if size := proto.Size(got); size > maxHealthBytes || size < maxHealthBytes*9/10 {
			t.Errorf("%d files: %d bytes are kept", files, size)
		}
		kept := len(got.Probes)
		for i, state := range []string{"denied", "suspended", "failed", "attached", "attached"} {
			if p := got.Probes[i]; p.State != state || i >= 3 && p.Cost.AsDuration() != time.Duration(files-1-i) {
				t.Errorf("%d files: row %d is %s with %s", files, i, p.State, p.Cost.AsDuration())
			}
		}
		if got.Omitted["probes"] != uint64(files-kept) || kept == files || len(got.Coverage) != 100 || got.Omitted["coverage"] != 0 {
			t.Errorf("%d files: %d rows, %d of coverage, omitted %v", files, kept, len(got.Coverage), got.Omitted)
		}
		if c.HealthRowsDropped != got.Omitted["probes"]+got.Omitted["sites"] {
			t.Errorf("%d files: %d are counted, told are %v", files, c.HealthRowsDropped, got.Omitted)
		}
	}
}

// TestPlacesOfProbesGoFirst: a report that is a little too long loses no row.
func TestPlacesOfProbesGoFirst(t *testing.T) {
	h := crowdedReport(200)
	for _, p := range h.Probes {
		p.Sites = []string{strings.Repeat("s", 900)}
	}
	got, _ := report(t, h)
	if len(got.Probes) != 200 || got.Omitted["probes"] != 0 || got.Omitted["sites"] == 0 || got.Omitted["sites"] > 100 {
		t.Errorf("%d rows, omitted %v", len(got.Probes), got.Omitted)
	}
	if len(got.Probes[0].Sites) != 1 || len(got.Probes[199].Sites) != 0 {
		t.Error("the hottest have lost their places")
	}
}

func TestWhatTheAgentLeftOutIsTold(t *testing.T) {
	h := crowdedReport(3000)
	h.Omitted = map[string]uint64{"probes": 5, "denials": math.MaxUint64, strings.Repeat("x", maxHealthBytes): 3}
	got, _ := report(t, h)
	if want := uint64(3000-len(got.Probes)) + 5; got.Omitted["probes"] != want || got.Omitted["denials"] != math.MaxUint64 || len(got.Omitted) != 3 {
		t.Errorf("%d are missing, of %d names: %d", want, len(got.Omitted), got.Omitted["probes"])
	}
}

func TestDenialsAreKeptAndBounded(t *testing.T) {
	want := &v1.Health{Governor: &v1.Governor{Exceeded: "nothing left to leave out"}, Denials: []*v1.Denial{{BuildId: "c0ffee", Library: "Go",
		Path: "/app/brief", Reason: "it ran into a probe", Evidence: "brief (9)", Name: "c0ffee", Since: timestamppb.New(time.Unix(1_700_000_000, 0))}}}
	if got, c := report(t, want); !proto.Equal(got, want) || c.HealthAltered != 0 {
		t.Errorf("%v", got)
	}
	long := strings.Repeat("é", 3000)
	many := &v1.Health{Governor: &v1.Governor{Exceeded: long}}
	for range 2 * maxHealthRows {
		many.Denials = append(many.Denials, &v1.Denial{BuildId: long, Name: long, Library: long, Path: long, Reason: long, Evidence: long, Since: &timestamppb.Timestamp{Nanos: -1}})
	}
	got, c := report(t, many)
	if proto.Size(got) > maxHealthBytes || len(got.Denials) < 50 || got.Omitted["denials"] != uint64(len(many.Denials)-len(got.Denials)) || c.HealthAltered != 1 {
		t.Errorf("%d rows, omitted %v", len(got.Denials), got.Omitted)
	}
	if d := got.Denials[0]; len(d.BuildId) > maxWordBytes || len(d.Name) > maxWordBytes || len(d.Path) > maxLineBytes || len(d.Evidence) > maxLineBytes || d.Since != nil || len(got.Governor.Exceeded) > maxLineBytes {
		t.Errorf("%.200v", d)
	}
}
