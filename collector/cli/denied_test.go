package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// TestADeniedBuildIsNamed: one that is gone by its list, one that is there not twice, one of an older agent by its file.
func TestADeniedBuildIsNamed(t *testing.T) {
	got := statusOf(t, &v1.Health{
		Denials: []*v1.Denial{
			{BuildId: "go:x1", Library: "Go", Path: "/app/brief", Reason: "it ran into a probe", Evidence: "brief (9), SIGTRAP", Since: timestamppb.New(noon.Add(-3 * time.Minute))},
			{BuildId: "aa", Library: "OpenSSL", Path: "/lib/libssl.so.3", Reason: "it crashed"},
			{BuildId: "bb", Reason: "it crashed"},
			{BuildId: "ee", Name: "5:6", Path: "/home/eve/libssl.so.3", Reason: "it crashed"},
		},
		Probes: []*v1.Probe{{Library: "OpenSSL", Path: "/lib/libssl.so.3", BuildId: "aa", State: "denied", Reason: "denied: it crashed"},
			{Library: "GnuTLS", Path: "/lib/gnutls", BuildId: "cc", State: "denied", Reason: "denied: of an older agent"},
			{Library: "OpenSSL", Path: "/home/eve/libssl.so.3", BuildId: "ee", State: "denied", Reason: "denied: it crashed"}},
	})
	for _, want := range []string{
		"NODE DENIED BUILD ID SINCE WHY",
		"n1 Go /app/brief go:x1 3m ago it ran into a probe (brief (9), SIGTRAP); spile-agent allow go:x1 lets probes in again",
		"n1 OpenSSL /lib/libssl.so.3 aa never it crashed; spile-agent allow aa lets",
		"n1 a file that was gone bb",
		"n1 GnuTLS /lib/gnutls denied: of an older agent",
		"n1 /home/eve/libssl.so.3 ee never it crashed; spile-agent allow 5:6 lets",
		"probes 0 of 3 attached, 5 denied",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing:\n%s", want, got)
		}
	}
	if strings.Count(got, "/lib/libssl.so.3") != 1 || strings.Count(got, "/home/eve/libssl.so.3") != 1 {
		t.Errorf("a denied file is named twice:\n%s", got)
	}
	var out strings.Builder
	l := &live{world: World{Stdout: &out, Now: func() time.Time { return noon }}, told: map[string]bool{}}
	for range 3 {
		if err := l.agent(&v1.Agent{Node: "n1", Connected: true, Health: &v1.Health{Rungs: map[string]string{"socket": "tp_btf"}, Denials: []*v1.Denial{{BuildId: "go:x1", Path: "/app/brief", Reason: "it crashed"}}}}); err != nil {
			t.Fatal(err)
		}
	}
	if want := "denied: /app/brief (build id go:x1) is not probed any more: it crashed\n"; strings.Count(out.String(), want) != 1 {
		t.Errorf("the live view: %s", out.String())
	}
}

func TestAFileIsNamedOnce(t *testing.T) {
	h := &v1.Health{}
	for i := range 40 {
		h.Probes = append(h.Probes, &v1.Probe{Library: "OpenSSL", Path: "/lib/libssl.so.3", State: "failed", Reason: "no room"},
			&v1.Probe{Library: "OpenSSL", Path: fmt.Sprintf("/c%02d", i), State: "failed", Reason: "no room"})
	}
	got := statusOf(t, h)
	if strings.Count(got, "/lib/libssl.so.3") != 1 || !strings.Contains(got, "OpenSSL /lib/libssl.so.3 ×40 no room") {
		t.Errorf("%s", got)
	}
	if !strings.Contains(got, "/c18") || strings.Contains(got, "/c19") || !strings.Contains(got, "… and 21 more files (spile agents -o json shows all)") {
		t.Errorf("%s", got)
	}
}

func TestWhatAReportLeftOutIsTold(t *testing.T) {
	h := &v1.Health{Probes: []*v1.Probe{{State: "attached"}}, Omitted: map[string]uint64{"probes": 12, "coverage": 3, "strange": 1}}
	got := statusOf(t, h)
	for _, want := range []string{"probes 1 of 1 attached, +12 more", "left out +3 more processes, +12 more files, +1 more strange: the agent's report had no room for them"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing:\n%s", want, got)
		}
	}
	if got := probesShort(h); got != "1/1+12" {
		t.Error(got)
	}
}
