package probe

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
	"github.com/spile/spile/bpf"
)

// nodeTalk is a server and its clients in one program, as goTalk is: each client has its own port in the path, and the
// server answers with the port that it sees. Node keeps TLS in memory and sends it later, from another function.
const nodeTalk = `
const fs = require("fs"), https = require("https"), tls = require("tls");
const [connections] = process.argv.slice(1).map(Number);
const server = https.createServer({key: fs.readFileSync("key"), cert: fs.readFileSync("crt")}, (req, res) =>
	res.end("port " + req.socket.remotePort + "\n" + "z".repeat(3000)));
let open = connections;
server.listen(0, "127.0.0.1", () => {
	for (let i = 0; i < connections; i++) talk(server.address().port);
});
function talk(port) {
	const c = tls.connect({port, host: "127.0.0.1", rejectUnauthorized: false, ALPNProtocols: ["http/1.1"]});
	let asked = 0, got = "";
	const ask = () => c.write("GET /" + c.localPort + "/" + asked++ + " HTTP/1.1\r\nHost: x\r\n\r\n");
	c.on("secureConnect", ask);
	c.on("data", (d) => {
		got += d;
		if (!got.includes("z".repeat(3000))) return;
		if (!got.includes("port " + c.localPort + "\n")) throw new Error(got);
		got = "";
		if (asked < 5) return ask();
		c.end();
	});
	c.on("close", () => { if (--open === 0) server.close(); });
}
`

// TestNodeEndToEnd has the probe of BIO_write behind its first instructions: node still works, and the socket of each
// stream is known by what was written there, from the first byte.
func TestNodeEndToEnd(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to load programs")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed")
	}
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "node")
	for _, c := range []*exec.Cmd{
		exec.Command("ip", "link", "set", "lo", "up"),
		exec.Command("cp", node, path), // no other program of this machine is to meet the probes
		exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
			"-keyout", filepath.Join(dir, "key"), "-out", filepath.Join(dir, "crt"), "-subj", "/CN=spile", "-days", "1"),
	} {
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", c.Args, err, out)
		}
	}
	handle, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	file, found := target.DescribeProgram(target.NewCache(target.DefaultBudget()), target.Libraries(), path, handle)
	if !found {
		t.Skip("this node has its OpenSSL in a shared library")
	}
	var self unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &self); err != nil {
		t.Fatal(err)
	}
	objects, err := bpf.Load(bpf.Options{Select: bpf.Selector{Include: bpf.Rules{NetNS: []uint32{uint32(self.Ino)}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { objects.Close() })
	reader, err := objects.Reader()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	r := registry(t, objects, DefaultTimes())
	if r.Use(target.Process{PID: 1}, file); phase(t, r) != Attached {
		t.Fatalf("%+v", r.List())
	}
	const connections = 40
	talk := exec.Command(path, "-e", nodeTalk, fmt.Sprint(connections))
	talk.Dir, talk.WaitDelay = dir, time.Second
	if out, err := talk.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	checkGo(t, objects, reader, connections)
	counts, err := objects.Counts()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counts {
		want := map[string]uint64{"bound_by_prefix": 2 * connections, "bound_by_length": 0}
		if n, ok := want[c.Name]; ok && c.Value != n {
			t.Errorf("%s is %d, want %d", c.Name, c.Value, n)
		}
	}
	for _, s := range file.Sites {
		if s.Symbol == "BIO_write" {
			t.Logf("probed at %s", s.Explain())
		}
	}
}
