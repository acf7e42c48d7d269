package deploy

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
)

// TestNestedHandshake has a Node server write on a connection to another server inside the handshake of a third: the
// library's calls nest on one thread, and the bytes that leave inside of one belong to the other. Each connection must
// keep its own socket: the client's calls and the upstream's are all seen from both ends, with their ports.
func TestNestedHandshake(t *testing.T) {
	needsRoot(t)
	node := nodePeer()
	if node.lacks != "" {
		t.Skip(node.lacks)
	}
	m := newMatrix(t)
	m.port = 9300
	startPages(t, m, m.port+1+behindProxy)
	row := matrixRow{mode: "h1", client: matrixClient{participant: participant{name: "curl", process: "curl"}}}
	row.server = matrixServer{participant: participant{name: "node", process: "node"}, start: func(t *testing.T, m *matrix, _ string) *process {
		argv := append(node.argv(t, "", "")[:1], "testdata/matrix/sni.js", m.address, m.dir+"/cert.pem", m.dir+"/key.pem", strconv.Itoa(m.port+behindProxy))
		return start(t, argv[0], argv[1:]...)
	}}
	m.serve(t, row.server, row.mode)
	client := oneShot{m, namedCurl, false}
	m.warm(t, client)
	const prefix = "nested"
	m.fixed++
	output(t, "curl", "-sk", "-m", "10", "-o", "/dev/null", fmt.Sprintf("https://%s/open/%s/0", m.address, prefix))
	conns, requests := 30, 4
	want := expect(row, client.round(t, prefix, conns, requests))
	upstream := 3 + conns
	got := m.all(prefix, len(want)+upstream)
	behind := func(c matrixCall) bool {
		return c.Destination.Port == m.port+behindProxy || c.Destination.Process == "nginx"
	}
	m.secondLeg(t, slices.DeleteFunc(slices.Clone(got), func(c matrixCall) bool { return !behind(c) }), prefix, "node")
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
