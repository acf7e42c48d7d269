package cli

import (
	"strings"
	"testing"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// A person is told in one line which attached files are without a lease; what is not attached needs none.
func TestStatusSaysWhatHasNoLease(t *testing.T) {
	const owner, system = "another user owns the file: give the agent CAP_LEASE", "its file system has no leases, or fs.leases-enable is 0"
	probe := func(state, why string) *v1.Probe {
		return &v1.Probe{Library: "OpenSSL", Path: "/lib/libssl.so.3", State: state, Unleased: why}
	}
	for want, probes := range map[string][]*v1.Probe{
		"":                                   {probe("attached", ""), probe("failed", owner), probe("draining", owner)},
		"no lease 1 attached file, " + owner: {probe("attached", owner), probe("attached", "")},
		"no lease 2 attached files, " + owner + "; 1 attached file, " + system: {
			probe("attached", owner), probe("attached", system), probe("attached", owner)},
	} {
		var out strings.Builder
		agents := []*v1.Agent{{Node: "n1", Health: &v1.Health{Probes: probes}}}
		if err := printStatus(World{Stdout: &out, Now: time.Now}, "here", &v1.GetStatusResponse{}, agents); err != nil {
			t.Fatal(err)
		}
		got := ""
		for line := range strings.Lines(out.String()) {
			if strings.Contains(line, "lease") {
				got += strings.TrimSuffix(line, "\n")
			}
		}
		if strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}
