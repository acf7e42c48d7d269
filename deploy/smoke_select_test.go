package deploy

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// healthEvery is how often an agent sends its account.
const healthEvery = 5 * time.Second

// TestSmokeOutsideTheSelection runs the same nginx binary in another network namespace: it leaves no trace in calls,
// and the kernel read not one byte of it.
func TestSmokeOutsideTheSelection(t *testing.T) {
	needsRoot(t)
	other := otherNamespace(t)
	for name, targets := range map[string][]string{
		"not included": {"--target", "netns=self"},
		"excluded":     {"--target", "netns=self", "--target", "netns=" + other.path(), "--target", "!netns=" + other.path()},
	} {
		t.Run(name, func(t *testing.T) { leavesNoTrace(t, other, targets) })
	}
}

func leavesNoTrace(t *testing.T, other namespace, targets []string) {
	p := up(t, targets...)
	other.serve(t)
	before := p.count("kernel", "bytes_read")
	for i := range 20 {
		other.output(t, "curl", "-sk", fmt.Sprintf("https://127.0.0.1:8443/users/%d", i), "-o", "/dev/null")
		other.output(t, "curl", "-s", fmt.Sprintf("http://127.0.0.1:8080/users/%d", i), "-o", "/dev/null")
	}
	time.Sleep(healthEvery + time.Second)
	if calls := p.calls(); len(calls) != 0 {
		t.Errorf("calls from outside the selection: %+v", calls)
	}
	if after := p.count("kernel", "bytes_read"); after != before {
		t.Errorf("the kernel read %d bytes outside the selection", after-before)
	}
	startNginx(t)
	output(t, "curl", "-sk", "https://127.0.0.1:8443/users/1", "-o", "/dev/null")
	eventually(t, 5*time.Second, "the call inside the selection", func() bool { return len(p.calls()) == 1 })
	eventually(t, 2*healthEvery, "bytes_read counts what is inside", func() bool { return p.count("kernel", "bytes_read") > before })
}

// namespace is a second network namespace, held open by a sleeping process.
type namespace struct{ holder *process }

func otherNamespace(t testing.TB) namespace {
	t.Helper()
	ns := namespace{start(t, "unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 600")}
	eventually(t, 5*time.Second, "the other namespace", func() bool { return strings.Contains(ns.holder.log.String(), "up") })
	return ns
}

func (ns namespace) path() string { return fmt.Sprintf("/proc/%d/ns/net", ns.holder.Process.Pid) }

func (ns namespace) output(t testing.TB, args ...string) []byte {
	t.Helper()
	return output(t, "nsenter", append([]string{"--net=" + ns.path()}, args...)...)
}

// serve starts nginx inside, on the same ports and from the same binary as outside.
func (ns namespace) serve(t testing.TB) *nginx {
	t.Helper()
	n := prepareNginx(t)
	n.process = start(t, "nsenter", "--net="+ns.path(), "nginx", "-p", n.dir, "-c", filepath.Join(n.dir, "nginx.conf"))
	eventually(t, 10*time.Second, "nginx inside listens", func() bool {
		return exec.Command("nsenter", "--net="+ns.path(), "curl", "-s", "http://127.0.0.1:8080/health", "-o", "/dev/null").Run() == nil
	})
	return n
}

// TestSmokeSelectors holds every kind of selector and its negation against the same traffic: curl calls nginx over TLS
// and plain, and who was seen at which end tells what was read.
func TestSmokeSelectors(t *testing.T) {
	needsRoot(t)
	server := startNginx(t)
	inside := cgroup(t)
	nginxPID := strconv.Itoa(server.Process.Pid)
	everything := map[string]int{"https both": 2, "http both": 2}
	clients := map[string]int{"https client": 2, "http client": 2}
	servers := map[string]int{"https server": 2, "http server": 2}
	for _, c := range []struct {
		target string
		want   map[string]int
	}{
		{"exe=*/curl", clients},
		{"!exe=*/curl", servers},
		{"exe=*/nginx", servers},
		{"pid=" + nginxPID, servers},
		{"!pid=" + nginxPID, clients},
		{"port=8443", map[string]int{"https both": 2}},
		{"!port=8443", map[string]int{"http both": 2}},
		{"cgroup=" + inside, clients},
		{"!cgroup=" + inside, servers},
		{"!port=1", everything},
	} {
		t.Run(strings.ReplaceAll(c.target, "/", "_"), func(t *testing.T) {
			p := up(t, "--target", "netns=self", "--target", c.target)
			for range 2 {
				for _, url := range []string{"https://127.0.0.1:8443/users/1", "http://127.0.0.1:8080/users/1"} {
					output(t, "sh", "-c", `echo $$ > "$0/cgroup.procs" && exec curl --http1.1 -sk -o /dev/null "$1"`, inside, url)
				}
			}
			n := 0
			for _, v := range c.want {
				n += v
			}
			eventually(t, 6*time.Second, fmt.Sprintf("%d calls; got %+v", n, p.calls()), func() bool { return len(p.calls()) >= n })
			time.Sleep(300 * time.Millisecond)
			got := map[string]int{}
			for _, call := range p.calls() {
				got[call.Scheme+" "+call.Observed]++
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// cgroup makes an empty cgroup v2 directory for the length of the test.
func cgroup(t testing.TB) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(root, "spile-test-")
		must(t, err)
		t.Cleanup(func() { os.Remove(dir) })
		return dir
	}
	t.Skip("no cgroup v2 hierarchy is mounted")
	return ""
}

// TestSmokeTwoNamespaces watches two namespaces that both use 127.0.0.1 and the same ports: their calls are told apart
// and never joined across.
func TestSmokeTwoNamespaces(t *testing.T) {
	needsRoot(t)
	other := otherNamespace(t)
	p := up(t, "--target", "netns=self", "--target", "netns="+other.path())
	startNginx(t)
	other.serve(t)
	time.Sleep(time.Second) // let the calls that asked whether nginx is up pass
	base := len(p.calls())
	for i := range 10 {
		port := strconv.Itoa(20000 + i)
		args := []string{"curl", "-s", "--local-port", port, "-o", "/dev/null"}
		output(t, args[0], append(args[1:], fmt.Sprintf("http://127.0.0.1:8080/users/%d", 100+i))...)
		other.output(t, append(args, fmt.Sprintf("http://127.0.0.1:8080/accounts/%d/close", 200+i))...)
	}
	eventually(t, 6*time.Second, "20 calls", func() bool { return len(p.calls()) >= base+20 })
	seen := map[string]int{}
	ids := map[string]bool{}
	for _, c := range p.calls()[base:] {
		seen[fmt.Sprintf("%s %d %s", c.Route, c.StatusCode, c.Observed)]++
		ids[c.ID] = true
	}
	want := map[string]int{"/users/{id} 200 both": 10, "/accounts/{id}/close 403 both": 10}
	if !maps.Equal(seen, want) || len(ids) != base+20 && len(ids) != 20 {
		t.Errorf("got %v with %d ids, want %v", seen, len(ids), want)
	}
}
