package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/govern"
	"github.com/spile/spile/agent/probe"
	"github.com/spile/spile/agent/target"
)

// TestAFileIsOneRow: where a process must stay without probes, its libraries are attached to each other process on its own.
func TestAFileIsOneRow(t *testing.T) {
	ssl, other := target.Identity{Ino: 1, BuildID: "aa"}, target.Identity{Ino: 2, BuildID: "bb"}
	rows := probeRows([]probe.State{
		{ID: ssl, Only: 7, Library: "OpenSSL", Path: "/lib/libssl.so.3", BuildID: "aa", Phase: probe.Failed, Reason: "no room", Processes: 1},
		{ID: other, Library: "GnuTLS", Path: "/lib/libgnutls.so.30", BuildID: "bb", Phase: probe.Attached, Processes: 4, Hits: 5, Cost: time.Second},
		{ID: ssl, Only: 8, Library: "OpenSSL", Path: "/lib/libssl.so.3", BuildID: "aa", Phase: probe.Attached, Processes: 2, Sites: []string{"SSL_read: entry"}, Hits: 10, Cost: 1500 * time.Millisecond},
		{ID: ssl, Only: 9, Library: "OpenSSL", Path: "/lib/libssl.so.3", BuildID: "aa", Phase: probe.Attached, Processes: 1, Sites: []string{"SSL_read: entry"}, Unleased: "it is on an overlay"},
	})
	if len(rows) != 2 {
		t.Fatalf("%d rows: %v", len(rows), rows)
	}
	got := rows[0]
	if got.State != "attached" || got.BuildId != "aa" || got.Processes != 4 || got.Hits != 10 || got.Cost.AsDuration() != 1500*time.Millisecond ||
		len(got.Sites) != 1 || got.Unleased == "" || got.Reason != "process 7: no room" {
		t.Errorf("%v", got)
	}
	if rows[1].Processes != 4 || rows[1].Reason != "" {
		t.Errorf("%v", rows[1])
	}
	// All of them fail for one reason: it is said once, and of no process in particular.
	var failed []probe.State
	for pid := range uint32(5) {
		failed = append(failed, probe.State{ID: ssl, Only: pid + 1, Phase: probe.Failed, Reason: "no room"})
	}
	if rows := probeRows(failed); len(rows) != 1 || rows[0].State != "failed" || rows[0].Reason != "no room" {
		t.Errorf("%v", rows)
	}
	for pid := range failed {
		failed[pid].Reason = fmt.Sprint("reason ", pid)
	}
	if rows := probeRows(failed); rows[0].Reason != "reason 0; reason 1; reason 2; and 2 more reasons" {
		t.Errorf("%q", rows[0].Reason)
	}
}

func TestRowsThatMatterComeFirst(t *testing.T) {
	var states []probe.State
	for i, s := range []probe.State{
		{Path: "cold", Phase: probe.Attached},
		{Path: "hot", Phase: probe.Attached, Cost: time.Minute},
		{Path: "canary", Phase: probe.Canary, Reason: "it is new", Cost: time.Second},
		{Path: "failed", Phase: probe.Failed, Reason: "no room"},
		{Path: "suspended", Phase: probe.Suspended, Reason: "over budget"},
		{Path: "denied", Phase: probe.Denied, Reason: "denied: it crashed"},
		{Path: "warm", Phase: probe.Attached, Cost: time.Second, Hits: 9},
	} {
		s.ID.Ino = uint64(i)
		states = append(states, s)
	}
	var got []string
	for _, r := range probeRows(states) {
		got = append(got, r.Path)
	}
	if want := "denied suspended failed hot warm canary cold"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	for _, p := range []probe.Phase{probe.Attaching, probe.Canary, probe.Attached, probe.Failed, probe.Draining, probe.Suspended, probe.Denied} {
		if !slices.Contains(phases(), p) {
			t.Errorf("phase %s has no place", p)
		}
	}
}

// TestADeniedProgramIsNamedWhenItIsGone: there is no file any more, only the list.
func TestADeniedProgramIsNamedWhenItIsGone(t *testing.T) {
	when := time.Unix(1_800_000_000, 0).UTC()
	one := probe.Denial{BuildID: "c0ffee", Library: "Go", Path: "/app/brief", Why: "it ran into a probe", Evidence: "brief (9), SIGTRAP", When: when}
	rows, omitted := denialRows([]probe.Denial{one})
	if len(rows) != 1 || omitted != 0 {
		t.Fatalf("%v, %d", rows, omitted)
	}
	if r := rows[0]; r.BuildId != one.BuildID || r.Name != one.BuildID || r.Library != one.Library || r.Path != one.Path || r.Reason != one.Why || r.Evidence != one.Evidence || !r.Since.AsTime().Equal(when) {
		t.Errorf("%v", r)
	}
	if rows, _ := denialRows([]probe.Denial{{BuildID: "c0ffee", File: &probe.OneFile{Device: 5, Inode: 6}}}); rows[0].Name != "5:6" || rows[0].BuildId != "c0ffee" {
		t.Errorf("a file alone: %v", rows[0])
	}
	if rows, omitted := denialRows(make([]probe.Denial, maxDenialRows+5)); len(rows) != maxDenialRows || omitted != 5 {
		t.Errorf("%d rows, %d omitted", len(rows), omitted)
	}
}

// TestABudgetThatIsExceededInVainIsTold drives the governor to its last stage and keeps the agent busy there.
func TestABudgetThatIsExceededInVainIsTold(t *testing.T) {
	w := newGoverned(govern.Budget{Agent: 1})
	w.run(60, 3, nil)
	if why := w.exceeded(); why != "" {
		t.Errorf("there is more to leave out: %s", why)
	}
	w.run(60, 3, nil)
	if h, why := w.account(0), w.exceeded(); h.Stage != "sampled" || !strings.Contains(why, "nothing left to leave out") {
		t.Errorf("at %s: %q", h.Stage, why)
	}
	w.run(20, 0.1, nil)
	if why := w.exceeded(); why != "" {
		t.Errorf("it is not exceeded any more: %s", why)
	}
}
