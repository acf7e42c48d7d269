package main

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/coverage"
	"github.com/spile/spile/agent/origin"
	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// TestAccountOfAProcess: figures from the kernel, a reason found while the process lives, a name that is no UTF-8; and
// once it has ended, the same row.
func TestAccountOfAProcess(t *testing.T) {
	rows := []bpf.Coverage{{TGID: 7, Start: 9, Cgroup: 3, TLSBytes: 500}, {TGID: 8, TLSBytes: 300, DecodedBytes: 300}}
	var asked []target.Traffic
	var said strings.Builder
	fail := false
	a := &account{
		table: coverage.New(),
		read: func() ([]bpf.Coverage, error) {
			if fail {
				return nil, errors.New("no")
			}
			return rows, nil
		},
		explain: func(traffic []target.Traffic) (out []target.Uncovered) {
			asked = append(asked, traffic...)
			for _, r := range traffic {
				out = append(out, target.Uncovered{PID: r.PID, Start: r.Start, Process: "ja\xffva", Reason: "JSSE"})
			}
			return out
		},
		owner: func(o chunk.Owner, _ time.Duration) origin.Process {
			return origin.Process{Name: map[uint32]string{8: "nginx"}[o.TGID], Container: "c"}
		},
		log: slog.New(slog.NewTextHandler(&said, nil)),
	}
	a.look(a.measure())
	rows = []bpf.Coverage{{TGID: 7, Start: 9, TLSBytes: 600, Ended: true}}
	a.look(a.measure())
	rows = nil
	a.look(a.measure())
	got := a.table.Rows(10)
	if len(got) != 2 || got[0].GetPid() != 7 || got[0].GetReason() != "JSSE" || got[0].GetTlsBytes() != 600 ||
		got[0].GetProcess() != "ja\uFFFDva" || got[0].GetContainer() != "c" || got[1].GetProcess() != "nginx" || got[1].GetReason() != "" {
		t.Errorf("%v", got)
	}
	if len(asked) != 2 || asked[0].Undecoded != 500 || asked[0].Start != 9 || !asked[1].Ended {
		t.Errorf("asked about %+v", asked)
	}
	fail = true
	a.look(a.measure())
	a.look(a.measure())
	if n := strings.Count(said.String(), "coverage of processes"); n != 1 || len(a.table.Rows(10)) != 2 {
		t.Errorf("said %d times: %s", n, &said)
	}
}

// TestPeersSayTheirCoverage: what was lost before a call shows in its peers.
func TestPeersSayTheirCoverage(t *testing.T) {
	var calls []*v1.Call
	p := testPipeline(func(c *v1.Call) { calls = append(calls, c) })
	p.coverage = coverage.New()
	drop := false
	w := newWire(0, func(c *chunk.Chunk) {
		if !drop || c.Owner.Comm != "nginx" {
			p.chunk(c)
		}
	})
	w.client.Owner.Start, w.server.Owner.Start = 1, 2
	w.server.Flags |= chunk.Head
	w.call(request("/users/1"), answer(`{}`))
	p.coverage.Update(time.Second, []coverage.Row{{Process: coverage.Process{TGID: 101, Start: 2}, TLS: 1000, Decoded: 500}})
	p.coverage.Update(2*time.Second, []coverage.Row{{Process: coverage.Process{TGID: 101, Start: 2}, TLS: 1000, Decoded: 500}})
	w.call(request("/users/2"), answer(`{}`))
	if len(calls) != 2 {
		t.Fatalf("%d calls", len(calls))
	}
	if c := calls[0]; c.GetSource().Coverage != nil || c.GetDestination().Coverage != nil {
		t.Errorf("the first call knows what was never measured: %v", c)
	}
	if c := calls[1]; c.GetSource().GetCoverage() != 1 || c.GetDestination().GetCoverage() != 0.5 {
		t.Errorf("%v", c)
	}
	rows := p.coverage.Rows(9)
	if len(rows) != 2 || rows[0].GetPid() != 101 || rows[0].GetCalls() != 2 || rows[0].GetLostCalls() != 0 || rows[1].GetCalls() != 2 {
		t.Errorf("%v", rows)
	}
}

// TestAPeerFoundLater: the server's TLS stream shows bytes before its socket is known. A call that ends bound has its peer
// and is joined with the client's sighting; one that ended before says that its peer is unknown. None is told twice.
func TestAPeerFoundLater(t *testing.T) {
	for _, bound := range []string{"never", "by the answer", "by the second call", "by the second call, soon", "by its end, soon"} {
		var calls []*v1.Call
		p := testPipeline(func(c *v1.Call) { calls = append(calls, c) })
		n := 0
		w := newWire(0, func(c *chunk.Chunk) {
			if c.Owner.Comm == "nginx" {
				n++
				if bound == "never" || bound == "by the answer" && n < 2 || strings.HasPrefix(bound, "by the second call") && n < 3 || bound == "by its end, soon" && n < 5 {
					c.Conn, c.ConnBirth, c.Flags = 0, 0, c.Flags|chunk.Unbound
					c.Local, c.Remote = chunk.Chunk{}.Local, chunk.Chunk{}.Remote
				}
			}
			p.chunk(c)
		})
		for i, path := range []string{"/users/1", "/users/2"} {
			w.call(request(path), answer(`{}`))
			if strings.HasSuffix(bound, "soon") {
				p.tick(w.now)
				continue
			}
			p.tick(w.now + time.Duration(i+1)*joinWindow)
			w.now += time.Duration(i+1) * joinWindow
		}
		end := w.server
		end.Kind, end.Time = chunk.Close, w.now
		end.Offset, end.PeerOff = w.offsets[end.Stream][chunk.Egress], w.offsets[end.Stream][chunk.Ingress]
		w.feed(&end)
		p.tick(w.now + joinWindow)
		p.finish()
		both, alone := 0, 0
		ids := map[string]bool{}
		for _, c := range calls {
			ids[c.GetId()] = true
			unknown := slices.Contains(c.GetCoverage(), "peer_unknown")
			switch {
			case c.GetObserved() == v1.Observed_OBSERVED_BOTH:
				both++
				if unknown || c.GetSource().GetPort() != 20000 || c.GetDestination().GetPort() != 8443 || c.GetSource().GetProcess() != "curl" {
					t.Errorf("%s: %v", bound, c)
				}
			case c.GetObserved() == v1.Observed_OBSERVED_SERVER:
				alone++
				if !unknown || c.GetSource().GetPort() != 0 || c.GetDestination().GetPort() != 0 || c.GetDestination().GetProcess() != "nginx" {
					t.Errorf("%s: %v", bound, c)
				}
			case unknown:
				t.Errorf("%s: %v", bound, c)
			}
		}
		want := map[string][3]int{
			"never": {0, 2, 4}, "by the answer": {2, 0, 2}, "by the second call": {1, 1, 3},
			"by the second call, soon": {2, 0, 2}, "by its end, soon": {2, 0, 2},
		}[bound]
		if got := [3]int{both, alone, len(calls)}; got != want || len(ids) != len(calls) {
			t.Errorf("%s: %v, want %v (both, server alone, all)", bound, got, want)
		}
		if len(p.unbound.queue)+len(p.unbound.count) != 0 {
			t.Errorf("%s: %+v still wait", bound, p.unbound)
		}
		if c := p.flow.Counts(); c.Calls != 4 || c.Streams != 2 || c.Lost() != 0 {
			t.Errorf("%s: %+v", bound, c)
		}
	}
}
