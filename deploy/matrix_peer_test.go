package deploy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// crowds are the servers and clients of TestWrongPeer, each runtime once the server and once the client, with how many
// connections they have in `make test`.
var crowds = []struct {
	server, client string
	slice          int
}{
	{"nginx", "python-asyncio", 150},
	{"python-asyncio", "go", 150},
	{"node", "go", 100},
	{"go", "node", 100},
}

// TestWrongPeer holds many connections open at once between two programs and asks over all of them, interleaved. Each
// request tells the port that it comes from. A call with another port, whichever end told it, is a wrong peer: there must
// be none, and no request that is two calls. A call that names no port is an unknown peer: at most one in 1,000. Left out is the warm-up: calls over single connections until
// one was seen from both ends, and then one call over each of 50 connections.
func TestWrongPeer(t *testing.T) {
	needsRoot(t)
	m := newMatrix(t, 26000)
	servers, clients := matrixServers(t), matrixClients(t)
	for _, crowd := range crowds {
		conns := 1000
		if !wholeMatrix() {
			conns = crowd.slice
		}
		s := servers[slices.IndexFunc(servers, func(s matrixServer) bool { return called(s.participant, crowd.server) })]
		c := clients[slices.IndexFunc(clients, func(c matrixClient) bool { return called(c.participant, crowd.client) })]
		t.Run(crowd.server+"-"+crowd.client, func(t *testing.T) {
			if lacks := s.lacks + c.lacks; lacks != "" {
				t.Skip(lacks)
			}
			m.crowd(t, matrixRow{s, c, "h1"}, conns)
		})
	}
}

// called finds a program by its name; "go" is the first of the Go builds.
func called(p participant, name string) bool {
	return p.name == name || name == "go" && strings.HasPrefix(p.name, "go1.")
}

func (m *matrix) crowd(t *testing.T, row matrixRow, conns int) {
	m.rows++
	prefix := fmt.Sprintf("crowd%d", m.rows)
	m.serve(t, row.server, row.mode)
	client := row.client.open(t, m, row.mode)
	m.warm(t, client)
	client.round(t, "few", 50, 1)
	const requests = 8
	client.(*peerCaller).pause = time.Duration(conns) * time.Millisecond / 2 // 2,000 requests/s at most
	lostBefore := m.lost()
	began := time.Now()
	want := expect(row, client.round(t, prefix, conns, requests))
	took := time.Since(began)
	m.all(prefix, len(want))
	time.Sleep(healthEvery) // what one end told alone has come by then, and what is lost is counted
	got := m.under(prefix)
	lost := m.lost() - lostBefore
	v, faults := tally(got, want, m.port)
	t.Logf("%s, %d connections at once: %d requests in %s: %s; %d lost, counted", row, conns, len(want), took.Round(time.Millisecond), v, lost)
	if !v.holds(len(want), int(lost)) {
		for _, kind := range slices.Sorted(maps.Keys(faults)) {
			t.Errorf("%s, for example: %s", kind, faults[kind])
		}
		t.Errorf("not good enough for a crowd")
	}
}

// holds reports whether a verdict is good enough for a crowd, of whose calls some were lost and counted.
func (v verdict) holds(asked, lost int) bool {
	return v.wrongPeer == 0 && v.twice == 0 && v.other == 0 && v.missing <= lost && v.unknownPeer*1000 <= asked && (asked-lost-v.both)*1000 <= asked
}

// lost is what the agent knows to have missed at servers' ends.
func (m *matrix) lost() uint64 { return m.count("flow", "lost_server") }
