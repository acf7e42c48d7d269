package deploy

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// mapsCopies maps as many private copies of libssl as it is told, and says so.
const mapsCopies = `
import ctypes, sys, glob
libraries = [ctypes.CDLL(path) for path in sorted(glob.glob(sys.argv[1] + "/*/libssl.so.3"))]
print("mapped", len(libraries), flush=True)
for line in sys.stdin:
    print(sum(lib.OPENSSL_init_ssl(0, None) for lib in libraries), flush=True)
`

// TestSafetyShutdown ends an agent that has probes in many files: when asked, in time, and when killed, as fast as the kernel
// takes out one link after another (50 to 60 ms each). Nothing stays either way, and the target's libraries work on.
func TestSafetyShutdown(t *testing.T) {
	needsRoot(t)
	for _, c := range []struct {
		how    syscall.Signal
		files  int
		within time.Duration
	}{
		{syscall.SIGTERM, sized(60, 500), 5 * time.Second},
		{syscall.SIGKILL, sized(6, 60), 2 * time.Minute},
	} {
		t.Run(c.how.String(), func(t *testing.T) {
			dir := t.TempDir()
			target, works := mapsMany(t, dir, c.files)
			began := time.Now()
			p := startPair(t)
			// By the target's code: a report of so many probes is cut.
			attached := func() int {
				files := map[string]bool{}
				eachCode(t, target, func(m mapping, altered, _ int) {
					if altered > 0 && filepath.Dir(filepath.Dir(m.path)) == dir {
						files[m.path] = true
					}
				})
				return len(files)
			}
			eventually(t, 2*time.Minute, fmt.Sprintf("probes in %d files", c.files), func() bool { return attached() == c.files })
			ready := time.Since(began)
			probed(t, target)
			programs, links := held(t, p.agentProc.Process.Pid)
			began = time.Now()
			must(t, p.agentProc.Process.Signal(c.how))
			<-p.agentProc.done
			took := time.Since(began)
			gone(t, programs, links)
			unprobed(t, target)
			works()
			t.Logf("%d files, %d links: attached after %v, ended %v after %v, nothing left after %v", c.files, len(links), ready.Round(time.Millisecond), took.Round(time.Millisecond), c.how, time.Since(began).Round(time.Millisecond))
			if took > c.within {
				t.Errorf("the end took %v, want at most %v", took, c.within)
			}
		})
	}
}

// mapsMany starts a program that maps private copies of libssl; works says that it still calls each of them.
func mapsMany(t *testing.T, dir string, files int) (pid int, works func()) {
	t.Helper()
	for i := range files {
		ownLibrary(t, filepath.Join(dir, fmt.Sprintf("%03d", i)))
	}
	python := exec.Command("/usr/bin/python3", "-c", mapsCopies, dir)
	ask, err := python.StdinPipe()
	must(t, err)
	target := begin(t, python)
	said := fmt.Sprintf("mapped %d\n", files)
	eventually(t, 30*time.Second, "the target maps its libraries", func() bool { return target.log.String() == said })
	return target.Process.Pid, func() {
		t.Helper()
		fmt.Fprintln(ask)
		said += fmt.Sprintln(files)
		eventually(t, 10*time.Second, "the target calls each of its libraries", func() bool { return target.log.String() == said })
	}
}
