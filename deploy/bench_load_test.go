package deploy

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// benchConnections is how many are open at a time; each asks again as soon as it has its answer.
const benchConnections = 16

// ask has h2load make n calls, which all must succeed. Its libssl is a copy of its own: only the server pays for probes.
func (b *bench) ask(port int, l benchLoad, n int) {
	b.t.Helper()
	args := []string{"-n", strconv.Itoa(n), "-c", strconv.Itoa(benchConnections), "-m", "1"}
	if l.protocol == "h1" {
		args = append(args, "--h1")
	}
	cmd := exec.Command("h2load", append(args, fmt.Sprintf("https://%s/pages/%d", address(port), l.bytes))...)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+b.libraries)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), fmt.Sprintf("%d succeeded, 0 failed", n)) || !strings.Contains(string(out), fmt.Sprintf("%d 2xx", n)) {
		b.t.Fatalf("h2load %s: %v\n%s", l, err, out)
	}
}

// cpu is the time that a process's threads have run, from the scheduler (Documentation/scheduler/sched-stats.rst).
func cpu(t testing.TB, pid int) time.Duration {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	must(t, err)
	var sum time.Duration
	for _, f := range threads {
		data, err := os.ReadFile(f)
		if os.IsNotExist(err) {
			continue // a thread that ended meanwhile
		}
		must(t, err)
		ns, err := strconv.ParseInt(strings.Fields(string(data))[0], 10, 64)
		must(t, err)
		sum += time.Duration(ns)
	}
	return sum
}

// privateLibraries copies libssl and libcrypto: uprobes are of a file, and strike all that map it.
func privateLibraries(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"libssl.so.3", "libcrypto.so.3"} {
		copied(t, systemLibrary(t, name), filepath.Join(dir, name))
	}
	return dir
}

func copied(t testing.TB, from, to string) string {
	t.Helper()
	data, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, data, 0o755))
	return to
}

func systemLibrary(t testing.TB, name string) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*/" + name)
	must(t, err)
	if len(found) == 0 {
		t.Fatalf("no %s below /usr/lib", name)
	}
	return found[0]
}

func hasFunction(file, name string) bool {
	f, err := elf.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	return err == nil && slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return s.Name == name && s.Value != 0 })
}

func median[T ~int64 | ~float64](v []T) T {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
