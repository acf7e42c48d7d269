package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
)

func TestStatusWhileLoadingAndAfter(t *testing.T) {
	said := func(counts ...*v1.Count) string {
		var out bytes.Buffer
		if err := printStatus(World{Stdout: &out, Now: time.Now}, "here", &v1.GetStatusResponse{Counts: counts}, nil); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	loads := said(&v1.Count{Stage: "inventory", Name: "loading_partitions", Value: 61})
	if !strings.Contains(loads, "loading (61 partitions to go)") || strings.Contains(loads, "up to date") {
		t.Errorf("while loading:\n%s", loads)
	}
	after := said(&v1.Count{Stage: "inventory", Name: "loading_partitions"}, &v1.Count{Stage: "target", Name: "refused", Lost: true},
		&v1.Count{Stage: "flow", Name: "no_room", Value: 2, Lost: true})
	if strings.Contains(after, "loading") || !strings.Contains(after, "up to date") || strings.Contains(after, "target") {
		t.Errorf("afterwards:\n%s", after)
	}
	if !strings.Contains(after, "nothing seen; lost: no_room 2") {
		t.Errorf("a stage that only lost:\n%s", after)
	}
}
