package deploy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// crowds are the servers and clients of TestWrongPeer: each runtime is once the server and once the client.
var crowds = []struct {
	server, client string
	slice          bool // runs in `make test` too
}{
	{"nginx", "python-asyncio", true},
	{"python-asyncio", "go", true},
	{"node", "go", false},
	{"go", "node", false},
}

// TestWrongPeer holds many connections open at once between two programs and asks over all of them, interleaved. Each
// request tells the port that it comes from. A call with another port is a wrong peer: there must be none. A call that
// names no port is an unknown peer: at most one in 1,000. Left out is the warm-up: calls over single connections until
// one was seen from both ends, and then one call over each of 50 connections.
func TestWrongPeer(t *testing.T) {
	needsRoot(t)
	conns := 1000
	if !wholeMatrix() {
		conns = 150
	}
	m := newMatrix(t)
	servers, clients := matrixServers(t), matrixClients(t)
	for _, crowd := range crowds {
		if !crowd.slice && !wholeMatrix() {
			continue
		}
		s := servers[slices.IndexFunc(servers, func(s matrixServer) bool { return called(s.participant, crowd.server) })]
		c := clients[slices.IndexFunc(clients, func(c matrixClient) bool { return called(c.participant, crowd.client) })]
		t.Run(crowd.server+"-"+crowd.client, func(t *testing.T) { m.crowd(t, matrixRow{s, c, "h1"}, conns) })
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
	got := m.all(prefix, len(want))
	time.Sleep(healthEvery)
	lost := m.lost() - lostBefore
	v, faults := tally(got, want, m.port)
	t.Logf("%s, %d connections at once: %d requests in %s: %s; %d lost, counted", row, conns, len(want), took.Round(time.Millisecond), v, lost)
	if v.wrongPeer > 0 || v.unknownPeer*1000 > len(want) || v.missing > int(lost) || v.other > 0 {
		for _, kind := range slices.Sorted(maps.Keys(faults)) {
			t.Errorf("%s, for example: %s", kind, faults[kind])
		}
	}
	if v.both < len(want)*999/1000-int(lost) {
		t.Errorf("%d of %d calls were seen from both ends", v.both, len(want))
	}
}

// lost is what the agent knows to have missed at servers' ends.
func (m *matrix) lost() uint64 { return m.count("flow", "lost_server") }
