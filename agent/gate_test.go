package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	diagnose "github.com/spile/spile/agent/doctor"
	"github.com/spile/spile/agent/gate"
	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
)

func refusing(name string, ignored ...string) *gates {
	results := []gate.Result{{Name: gate.UretprobeSeccomp, State: gate.Passed, Detail: "fine"}, {Name: gate.Preempt, State: gate.Passed, Detail: "fine"}}
	for i := range results {
		if results[i].Name == name {
			results[i] = gate.Result{Name: name, State: gate.Refused, Detail: "this kernel kills", Remedy: "use another"}
		}
	}
	return &gates{Report: gate.Report{Gates: results, Costs: gate.Typical()}, ignored: ignored}
}

// A refused gate stops what it concerns, and that has a reason.
func TestGatesStopWhatTheyConcern(t *testing.T) {
	library := target.File{Path: "/lib/libssl.so.3", Sites: []target.Site{{Symbol: "SSL_read", Enter: "ssl_read_enter", Exit: "ssl_read_exit"}, {Symbol: "SSL_free", Enter: "ssl_free_enter"}}}
	entries := target.File{Path: "/lib/libcrypto.so.3", Sites: []target.Site{{Symbol: "BIO_write", Enter: "bio_write_enter"}}}
	program := target.File{Path: "/bin/server", Sites: []target.Site{
		{Symbol: "crypto/tls.(*Conn).Read", Enter: "go_read_enter", Exit: "go_read_exit", Returns: []uint64{1, 2}},
		{Symbol: "crypto/tls.(*Conn).Write", Enter: "go_write_enter"},
	}}
	both := target.File{Path: "/bin/both", Sites: append(append([]target.Site{}, library.Sites...), program.Sites...)}
	broken := target.File{Path: "/bin/odd", Problem: errors.New("it is odd")}
	for name, c := range map[string]struct {
		gates *gates
		file  target.File
		sites int
		says  string
	}{
		"nothing refused":            {refusing(""), library, 2, ""},
		"no return probes, library":  {refusing(gate.UretprobeSeccomp), library, 1, "attach to /lib/libssl.so.3: this kernel kills; use another"},
		"no return probes, entries":  {refusing(gate.UretprobeSeccomp), entries, 1, ""},
		"no return probes, Go":       {refusing(gate.UretprobeSeccomp), program, 2, ""},
		"no return probes, both":     {refusing(gate.UretprobeSeccomp), both, 3, ""},
		"no return probes, ignored":  {refusing(gate.UretprobeSeccomp, gate.UretprobeSeccomp), library, 2, ""},
		"no uprobes, library":        {refusing(gate.Preempt), library, 2, "this kernel kills"},
		"no uprobes, Go":             {refusing(gate.Preempt), program, 2, "this kernel kills"},
		"no uprobes, other ignored":  {refusing(gate.Preempt, gate.UretprobeSeccomp), program, 2, "this kernel kills"},
		"the first problem is shown": {refusing(gate.Preempt), broken, 0, "it is odd"},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.gates.admit(c.file)
			said := ""
			if got.Problem != nil {
				said = got.Problem.Error()
			}
			if len(got.Sites) != c.sites || (c.says == "") != (said == "") || !strings.Contains(said, c.says) {
				t.Errorf("%d sites, problem %q; want %d and %q", len(got.Sites), said, c.sites, c.says)
			}
		})
	}
	if len(library.Sites) != 2 || library.Sites[0].Symbol != "SSL_read" || len(both.Sites) != 4 || both.Sites[0].Symbol != "SSL_read" {
		t.Error("the caller's sites were changed")
	}
}

func TestGatesAreTold(t *testing.T) {
	rows := refusing(gate.Preempt, gate.Preempt).rows()
	if len(rows) != 2 || rows[1].GetName() != "preempt" || rows[1].GetState() != "refused" || !strings.Contains(rows[1].GetDetail(), "use another (ignored: --ignore-gate)") {
		t.Errorf("rows %v", rows)
	}
	if rows[0].GetDetail() != "fine" {
		t.Errorf("rows %v", rows)
	}
	checks := gateChecks(refusing(gate.UretprobeSeccomp).Report)
	if len(checks) != 3 || checks[0].Verdict != diagnose.Warn || checks[0].Remedy == "" || checks[1].Verdict != diagnose.OK || checks[2].Name != "probe_cost" || checks[2].Verdict != diagnose.Warn {
		t.Errorf("checks %+v", checks)
	}
	if !diagnose.Healthy(checks) {
		t.Error("a refused gate keeps the agent from working: plain sockets are watched all the same")
	}
}

func TestIgnoreGateNamesAGate(t *testing.T) {
	var c config
	if _, err := c.parse([]string{"--ignore-gate", "preempt", "--ignore-gate", "uretprobe_seccomp"}, environment()); err != nil || len(c.ignore) != 2 {
		t.Errorf("%v, %q", err, c.ignore)
	}
	c = config{}
	if _, err := c.parse(nil, environment("SPILE_IGNORE_GATE=premption")); err == nil || !strings.Contains(err.Error(), "uretprobe_seccomp or preempt") {
		t.Errorf("a gate that there is not: %v", err)
	}
}

// What a hit costs is asked by one goroutine while another measures.
func TestAHitIsPricedWhileProgramsAreMeasured(t *testing.T) {
	g := refusing("")
	g.price((*bpf.Objects)(nil)) // they are asked after five seconds only
	ctx, cancel := context.WithCancel(t.Context())
	var measuring sync.WaitGroup
	measuring.Go(func() { g.measure(ctx, slog.New(slog.DiscardHandler)) })
	for range 100 {
		if entry, exit := g.hitNs(target.Emulated, false), g.hitNs(target.SingleStep, true); entry <= 0 || exit <= 0 {
			t.Fatalf("%v and %v ns", entry, exit)
		}
	}
	cancel()
	measuring.Wait()
}
