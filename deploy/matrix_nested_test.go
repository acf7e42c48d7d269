package deploy

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
)

// TestNestedHandshake has servers of Node and Python talk to another server inside the handshake of a third connection:
// the library's calls nest on one thread, and the bytes that leave inside of one belong to the other. Each connection
// must keep its own socket: the client's calls and the upstream's are all seen from both ends, with their ports.
func TestNestedHandshake(t *testing.T) {
	needsRoot(t)
	m := newMatrix(t, 24000)
	m.port = 9300
	for _, end := range []struct {
		peer
		script string
	}{{nodePeer(), "testdata/matrix/sni.js"}, {pythonPeer(t, "threads"), "testdata/matrix/sni.py"}} {
		t.Run(end.process, func(t *testing.T) {
			if end.lacks != "" {
				t.Skip(end.lacks)
			}
			m.nested(t, end.peer, end.script)
		})
	}
}

func (m *matrix) nested(t *testing.T, server peer, script string) {
	m.rows++
	row := matrixRow{mode: "h1", client: matrixClient{participant: participant{name: "curl", process: "curl"}}}
	row.server = matrixServer{participant: server.participant, proxy: true, start: func(t *testing.T, m *matrix, _ string) *process {
		return start(t, server.argv(t, "", "")[0], script, m.address, m.dir+"/cert.pem", m.dir+"/key.pem", strconv.Itoa(m.port+behindProxy))
	}}
	m.serve(t, row.server, row.mode)
	client := oneShot{m, namedCurl, false}
	m.warm(t, client)
	prefix := fmt.Sprintf("nested%d", m.rows)
	m.fixed++
	output(t, "curl", "-sk", "-m", "10", "-o", "/dev/null", fmt.Sprintf("https://%s/open/%s/0", m.address, prefix))
	const conns, requests, upstream = 30, 4, 3
	want := expect(row, client.round(t, prefix, conns, requests))
	got := m.all(prefix, len(want)+upstream+conns)
	behind := func(c matrixCall) bool {
		return c.Destination.Port == m.port+behindProxy || c.Destination.Process == "nginx"
	}
	m.secondLeg(t, slices.DeleteFunc(slices.Clone(got), func(c matrixCall) bool { return !behind(c) }), prefix, server.process)
	t.Logf("%s", judge(t, slices.DeleteFunc(got, behind), want, m.port))
}

// namedCurl is a curl that names the server in its hello.
func namedCurl(t *testing.T, m *matrix, prefix string, port, requests int) []int {
	t.Helper()
	const host = "nested.example"
	args := []string{"-sk", "--http1.1", "--local-port", strconv.Itoa(port), "-m", "10", "--resolve", fmt.Sprintf("%s:%d:127.0.0.1", host, m.port)}
	ns := only(requests, 0, 1, 3)
	for _, n := range ns {
		args = append(args, "-o", "/dev/null", fmt.Sprintf("https://%s:%d/%s/%d/%d", host, m.port, prefix, port, n))
	}
	output(t, "curl", args...)
	return ns
}
