package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// client is a shell that waits for a word, then asks both servers, in children of its own.
type client struct {
	cmd  *exec.Cmd
	word io.WriteCloser
}

func newClient(tp *tap, plain, tls string, attr *syscall.SysProcAttr) *client {
	tp.t.Helper()
	requireProgram(tp.t, "curl")
	script := fmt.Sprintf("read go; curl -s %[1]s/in && curl -sk --http1.1 %[2]s/in && (curl -s %[1]s/in; curl -sk --http1.1 %[2]s/in); exit 0", plain, tls)
	c := tp.command("sh", "-c", script)
	if attr != nil {
		attr.Pdeathsig = syscall.SIGKILL
		c.SysProcAttr = attr
	}
	in, err := c.StdinPipe()
	if err != nil {
		tp.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		tp.t.Fatal(err)
	}
	tp.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return &client{c, in}
}

func (c *client) run(t testing.TB) {
	t.Helper()
	if _, err := io.WriteString(c.word, "go\n"); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

// seen counts the streams with data in each layer.
func seen(t testing.TB, events []Record) (plain, tls int) {
	t.Helper()
	for _, s := range talks(t, events) {
		if s.side[ingress].events+s.side[egress].events == 0 {
			t.Error("a stream without data was closed")
		}
		if s.first.Layer == layerSocket {
			plain++
		} else {
			tls++
		}
	}
	return plain, tls
}

// TestSelection holds each kind of rule and its negation against the same traffic: two plain and two TLS exchanges.
func TestSelection(t *testing.T) {
	requireKernel(t)
	requireProgram(t, "curl")
	plainServer, plainPort := serve(t, false, echo)
	tlsServer, tlsPort := serve(t, true, echo)
	netns := ownNetNS(t)
	group, attr := cgroup(t)
	curl := fileID(t, requireProgram(t, "curl"))
	for _, c := range []struct {
		name       string
		selector   func(pid uint32) Selector
		verdict    func(o *Objects) error
		attr       *syscall.SysProcAttr
		plain, tls int
		reason     string // the counter that says why nothing was seen
	}{
		{name: "netns", selector: rules(Rules{}, Rules{}), plain: 2, tls: 2},
		{name: "other netns", selector: rules(Rules{NetNS: []uint32{1}}, Rules{}), reason: "skipped_netns"},
		{name: "not netns", selector: rules(Rules{}, Rules{NetNS: []uint32{netns}}), reason: "skipped_netns"},
		{name: "pid with children", selector: func(pid uint32) Selector { return Selector{Include: Rules{PIDs: []uint32{pid}}} }, plain: 2, tls: 2},
		{name: "other pid", selector: rules(Rules{PIDs: []uint32{1 << 22}}, Rules{}), reason: "skipped_pid"},
		{name: "not pid", selector: func(pid uint32) Selector { return Selector{Exclude: Rules{PIDs: []uint32{pid}}} }, reason: "skipped_pid"},
		{name: "port", selector: rules(Rules{Ports: []uint16{plainPort}}, Rules{}), plain: 2, reason: "skipped_port"},
		{name: "tls port", selector: rules(Rules{Ports: []uint16{tlsPort}}, Rules{}), tls: 2, reason: "skipped_port"},
		{name: "not port", selector: rules(Rules{}, Rules{Ports: []uint16{tlsPort}}), plain: 2, reason: "skipped_port"},
		{name: "port but not port", selector: rules(Rules{Ports: []uint16{tlsPort}}, Rules{Ports: []uint16{tlsPort}}), reason: "skipped_port"},
		{name: "cgroup", selector: rules(Rules{CgroupFDs: []int{group}}, Rules{}), attr: attr, plain: 2, tls: 2},
		{name: "outside cgroup", selector: rules(Rules{CgroupFDs: []int{group}}, Rules{}), reason: "skipped_cgroup"},
		{name: "not cgroup", selector: rules(Rules{}, Rules{CgroupFDs: []int{group}}), attr: attr, reason: "skipped_cgroup"},
		{name: "exe without a verdict", selector: rules(Rules{Exe: true}, Rules{}), reason: "undecided_exe"},
		{name: "exe", selector: rules(Rules{Exe: true}, Rules{}), plain: 2, tls: 2,
			verdict: func(o *Objects) error { return o.SetExe(curl, true, false) }},
		{name: "other exe", selector: rules(Rules{Exe: true}, Rules{}), reason: "skipped_exe",
			verdict: func(o *Objects) error { return o.SetExe(curl, false, false) }},
		{name: "not exe", selector: rules(Rules{}, Rules{Exe: true}), reason: "skipped_exe",
			verdict: func(o *Objects) error { return o.SetExe(curl, false, true) }},
		{name: "exe and port", selector: rules(Rules{Exe: true, Ports: []uint16{tlsPort}}, Rules{}), tls: 2, reason: "skipped_port",
			verdict: func(o *Objects) error { return o.SetExe(curl, true, false) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if (strings.Contains(c.name, "cgroup")) && group < 0 {
				t.Skip("needs a writable cgroup v2 file system")
			}
			tp := &tap{t: t, library: privateLibrary(t), stopped: make(chan struct{})}
			shell := newClient(tp, plainServer.URL, tlsServer.URL, c.attr)
			tp.Objects = load(t, Options{Select: c.selector(uint32(shell.cmd.Process.Pid))})
			tp.attach(filepath.Join(tp.library, "libssl.so.3"))
			tp.read()
			if c.verdict != nil {
				if err := c.verdict(tp.Objects); err != nil {
					t.Fatal(err)
				}
			}
			shell.run(t)
			events := data(tp.settle())
			if plain, tls := seen(t, events); plain != c.plain || tls != c.tls {
				t.Errorf("%d plain and %d TLS streams, want %d and %d of %s", plain, tls, c.plain, c.tls, summary(events))
			}
			if read := tp.count("bytes_read"); (read == 0) != (c.plain+c.tls == 0) {
				t.Errorf("%d bytes were read of %d streams", read, c.plain+c.tls)
			}
			if c.reason != "" && tp.count(c.reason) == 0 {
				t.Errorf("nothing is counted as %s", c.reason)
			}
			if lost := tp.lost(); len(lost) != 0 {
				t.Errorf("lost %v", lost)
			}
		})
	}
}

// Traffic of the same programs in another network namespace leaves no trace.
func TestOtherNamespace(t *testing.T) {
	tp := start(t, Options{})
	shell := tp.command("sh", "-c", `ip link set lo up || exit 3
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout "$1/key" -out "$1/cert" 2>/dev/null || exit 3
openssl s_server -quiet -accept 127.0.0.1:4433 -key "$1/key" -cert "$1/cert" -WWW >/dev/null 2>&1 & server=$!
python3 -m http.server --bind 127.0.0.1 8080 >/dev/null 2>&1 & plain=$!
for i in $(seq 100); do curl -s http://127.0.0.1:8080/ -o /dev/null && curl -sk https://127.0.0.1:4433/x -o /dev/null && ok=1 && break; sleep 0.1; done
kill $server $plain; wait
[ -n "$ok" ]`, "sh", t.TempDir())
	requireProgram(t, "openssl")
	requireProgram(t, "python3")
	requireProgram(t, "ip")
	shell.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	if out, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, r := range tp.settle() {
		// The shell is cloned into the namespace before it runs the first program.
		if r.Event.Netns != ownNetNS(t) {
			t.Errorf("event of another namespace:%s", summary([]Record{r}))
		}
		if r.Event.Kind == EventData || r.Event.Kind == EventClose {
			t.Errorf("captured%s", summary([]Record{r}))
		}
	}
	for name, want := range map[string]bool{"bytes_read": false, "events": false, "tls_bytes": false, "skipped_netns": true} {
		if got := tp.count(name); (got > 0) != want {
			t.Errorf("%s is %d", name, got)
		}
	}
}

func rules(include, exclude Rules) func(uint32) Selector {
	return func(uint32) Selector { return Selector{include, exclude} }
}

func data(events []Record) []Record {
	var found []Record
	for _, r := range events {
		if r.Event.Kind == EventData || r.Event.Kind == EventClose {
			found = append(found, r)
		}
	}
	return found
}

// fileID is the file as the kernel names it, where stat tells the same: not on an overlay.
func fileID(t testing.TB, path string) FileID {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return FileID{Dev: uint64(unix.Major(stat.Dev))<<20 | uint64(unix.Minor(stat.Dev)), Ino: stat.Ino}
}

// cgroup makes a group, and the attributes that start a process in it. The descriptor is -1 where there are none.
func cgroup(t testing.TB) (int, *syscall.SysProcAttr) {
	t.Helper()
	mount, err := cgroupMount()
	if err != nil {
		return -1, nil
	}
	dir, err := os.MkdirTemp(mount, "spile-test-*")
	if err != nil {
		return -1, nil
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd()), &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
}

func cgroupMount() (string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return "", errors.New("no cgroup v2 is mounted")
}
