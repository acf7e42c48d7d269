package deploy

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// containerScript is what a container runtime does: a cgroup, mount and pid namespaces, and an overlay of the image's
// one layer under a root of its own. $1 cgroup, $2 image, $3 the container's directory, $4 "tmpfs" or "disk", $5 the configuration.
const containerScript = `
set -e
echo $$ > "$1/cgroup.procs"
exec unshare --mount --pid --fork --propagation private sh -c '
	set -e
	[ "$4" = disk ] || mount -t tmpfs spile-test "$3"
	mkdir -p "$3/upper" "$3/work" "$3/root"
	mount -t overlay overlay -o "lowerdir=$2,upperdir=$3/upper,workdir=$3/work" "$3/root"
	export LD_LIBRARY_PATH=/opt/shop/lib
	exec chroot "$3/root" /usr/sbin/nginx -p /var/shop -c "$5"
' container "$@"
`

// shopImage is a layer that holds nginx, the libraries it needs and a configuration for each port; its OpenSSL lies where
// no distribution puts one, so its probes can be told from the host's.
func shopImage(t testing.TB, portOf func(i int) int, n int) string {
	t.Helper()
	image := t.TempDir()
	program, err := exec.LookPath("nginx")
	must(t, err)
	copyFile(t, program, filepath.Join(image, "usr/sbin/nginx"))
	for line := range strings.Lines(string(output(t, "ldd", program))) {
		f := strings.Fields(line)
		from := f[0]
		if len(f) > 2 && f[1] == "=>" {
			from = f[2]
		}
		if !strings.HasPrefix(from, "/") {
			continue // the vDSO
		}
		to := from
		if strings.HasPrefix(f[0], "libssl") || strings.HasPrefix(f[0], "libcrypto") {
			to = "/opt/shop/lib/" + f[0]
		}
		copyFile(t, from, filepath.Join(image, to))
	}
	for _, dir := range []string{"var/log/nginx", "var/lib/nginx", "var/shop", "tmp"} {
		must(t, os.MkdirAll(filepath.Join(image, dir), 0o755))
	}
	copyFile(t, "/etc/passwd", filepath.Join(image, "etc/passwd"))
	copyFile(t, "/etc/group", filepath.Join(image, "etc/group"))
	writeCertificate(t, filepath.Join(image, "var/shop"))
	for i := range n {
		conf := fmt.Appendf(nil, sightConf, "/tmp", "/var/shop", portOf(i))
		must(t, os.WriteFile(filepath.Join(image, fmt.Sprintf("etc/shop-%d.conf", i)), conf, 0o644))
	}
	return image
}

// containerCgroup makes a cgroup named as Docker's systemd driver names it, and returns it with the container's id.
func containerCgroup(t testing.TB) (dir, id string) {
	t.Helper()
	raw := make([]byte, 32)
	rand.Read(raw)
	id = hex.EncodeToString(raw)
	dir = filepath.Join(filepath.Dir(cgroup(t)), "docker-"+id+".scope")
	must(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() {
		for range 50 { // its last process may still be leaving
			if err := os.Remove(dir); err == nil || os.IsNotExist(err) {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("the cgroup %s stays behind", dir)
	})
	return dir, id
}

// needsOverlay skips where a mount namespace cannot mount an overlay.
func needsOverlay(t testing.TB) {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("unshare", "--mount", "sh", "-c", `cd "$0" && mkdir l u w m && mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m`, dir).CombinedOutput()
	if err != nil {
		t.Skipf("overlayfs cannot be mounted here: %v: %s", err, out)
	}
}

// TestSightContainers runs 50 containers of one image. What they share is probed once; each call is seen once, from both
// ends, and in the container that served it. Half of them were there before the agent; half write to a file system other
// than the image's, for which overlayfs numbers files differently.
func TestSightContainers(t *testing.T) {
	needsRoot(t)
	needsOverlay(t)
	const containers, each = 50, 3
	port := func(i int) int { return 10_000 + i }
	image := shopImage(t, port, containers)
	ids := map[int]string{}
	run := func(from, to int) {
		for i := from; i < to; i++ {
			dir, id := containerCgroup(t)
			ids[port(i)] = id
			upper := []string{"tmpfs", "disk"}[i%2]
			start(t, "sh", "-c", containerScript, "sh", dir, image, t.TempDir(), upper, fmt.Sprintf("/etc/shop-%d.conf", i))
		}
		for i := from; i < to; i++ {
			eventually(t, 20*time.Second, "the container serves", func() bool { return dials(fmt.Sprintf("127.0.0.1:%d", port(i))) })
		}
	}
	run(0, containers/2)
	p := up(t)
	run(containers/2, containers)
	time.Sleep(time.Second) // what started last is found by then
	for i := range containers {
		args := []string{"-sk", "--http1.1"}
		for n := range each {
			args = append(args, "-o", "/dev/null", fmt.Sprintf("https://127.0.0.1:%d/users/%d", port(i), 1000*(i+1)+n))
		}
		output(t, "curl", args...)
	}
	const want = containers * each
	eventually(t, 10*time.Second, "a call of each request", func() bool { return len(p.calls()) >= want })
	time.Sleep(time.Second) // a call told twice would come late
	calls, paths := p.calls(), map[string]int{}
	perPort := map[int]int{}
	for _, c := range calls {
		paths[c.Path]++
		perPort[c.Destination.Port]++
		if c.Observed != "both" || c.StatusCode != 200 || c.Source.Process != "curl" || c.Destination.Process != "nginx" {
			t.Errorf("call: %s", brief(c))
		}
		if c.Destination.Container != ids[c.Destination.Port] {
			t.Errorf("the call to port %d is in container %q, want %q", c.Destination.Port, c.Destination.Container, ids[c.Destination.Port])
		}
	}
	if len(calls) != want || len(paths) != want || p.total() != want {
		t.Errorf("%d calls with %d paths, %d in the inventory; want %d, each once", len(calls), len(paths), p.total(), want)
	}
	for i := range containers {
		if n := perPort[port(i)]; n != each {
			t.Errorf("container %d: %d calls, want %d", i, n, each)
		}
	}
	p.fresh()
	shared := p.probes("/opt/shop/lib/libssl")
	if len(shared) != 1 || shared[0].State != "attached" {
		t.Errorf("the library of the shared image has the probes %+v, want one row that is attached", shared)
	}
	covered := map[string]bool{}
	for _, c := range p.agent().Health.Coverage {
		if c.Process == "nginx" {
			covered[c.Container] = true
			if c.DecodedBytes != c.TLSBytes || c.TLSBytes == 0 || c.Calls != each || c.Reason != "" {
				t.Errorf("coverage of a container: %+v", c)
			}
		}
	}
	for p, id := range ids {
		if !covered[id] {
			t.Errorf("the container of port %d has no row of coverage", p)
		}
	}
}
