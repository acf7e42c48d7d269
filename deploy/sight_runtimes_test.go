package deploy

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestSightCoverageOfRuntimes compares what the agent says of the TLS of Go, Node and asyncio with the packets, each of
// them once a server and once a client: programs that carry their TLS themselves, and one that does it away from sockets.
func TestSightCoverageOfRuntimes(t *testing.T) {
	needsRoot(t)
	type end struct {
		who    string
		pid    int
		port   int // of the server: all packets of it are this end's
		before coverageLine
		wire   uint64
	}
	var ends []*end
	wire := countPackets(t)
	m := newMatrix(t, 28000)
	m.port = 9500
	servers, clients := matrixServers(t), matrixClients(t)
	var talks []func()
	const conns, requests = 20, 16
	for _, pair := range [][2]string{{"go", "node"}, {"node", "python-asyncio"}, {"python-asyncio", "go"}} {
		s := servers[slices.IndexFunc(servers, func(s matrixServer) bool { return called(s.participant, pair[0]) })]
		c := clients[slices.IndexFunc(clients, func(c matrixClient) bool { return called(c.participant, pair[1]) })]
		if lacks := s.lacks + c.lacks; lacks != "" {
			t.Run("node", func(t *testing.T) { t.Skip(lacks) })
			continue
		}
		m.rows++
		var server *process
		open := s.start
		s.start = func(t *testing.T, m *matrix, mode string) *process {
			server = open(t, m, mode)
			return server
		}
		m.serve(t, s, "h1")
		client := c.open(t, m, "h1").(*peerCaller)
		m.warm(t, client)
		client.round(t, "few", 4, 1)
		ends = append(ends, &end{who: s.name + " as a server", pid: server.Process.Pid, port: m.port}, &end{who: c.name + " as a client", pid: client.Process.Pid, port: m.port})
		talks = append(talks, func() { client.round(t, "measured", conns, requests) })
	}
	time.Sleep(healthEvery + time.Second) // the account of the warm-up is whole
	for _, e := range ends {
		e.before, e.wire = m.covered(e.pid), wire.tcp(e.port)
	}
	for _, talk := range talks {
		talk()
	}
	for _, e := range ends {
		t.Run(e.who, func(t *testing.T) {
			want := wire.tcp(e.port) - e.wire
			var got coverageLine
			for begun := time.Now(); (!about(got.TLSBytes, want) || got.Calls != conns*requests) && time.Since(begun) < 2*healthEvery; time.Sleep(200 * time.Millisecond) {
				got = m.on(t).covered(e.pid)
				got.TLSBytes -= e.before.TLSBytes
				got.DecodedBytes -= e.before.DecodedBytes
				got.UnboundBytes -= e.before.UnboundBytes
				got.Calls -= e.before.Calls
				got.LostCalls -= e.before.LostCalls
			}
			told := fmt.Sprintf("%d bytes on the wire, %d told, %d decoded, %d calls; in the warm-up %d of %d decoded", want, got.TLSBytes, got.DecodedBytes, got.Calls,
				e.before.DecodedBytes, e.before.TLSBytes)
			t.Log(told)
			if want < 1_000_000 || !about(got.TLSBytes, want) || got.DecodedBytes != got.TLSBytes {
				t.Errorf("%s: %+v", told, got)
			}
			gap := got.Reason != "" && e.before.DecodedBytes == e.before.TLSBytes // the first connection may be older than its probes
			if gap || got.UnboundBytes != 0 || got.QUICBytes != 0 || got.Calls != conns*requests || got.LostCalls != 0 {
				t.Errorf("want %d calls and no gap, told: %+v", conns*requests, got)
			}
		})
	}
}
