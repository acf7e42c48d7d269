package origin

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/chunk"
)

// startOf reads when a process began, as an event would say it (the kernel is finer, procfs is enough).
func startOf(t *testing.T, proc string, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(ticks)*tick + 3*time.Millisecond
}

func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	c := exec.Command("sleep", "60")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	link := fmt.Sprintf("/proc/%d/exe", c.Process.Pid)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if name, _ := os.Readlink(link); filepath.Base(name) == "sleep" || time.Now().After(deadline) {
			return c
		}
	}
}

func TestLookupSurvivesTheProcess(t *testing.T) {
	child := sleeper(t)
	pid := uint32(child.Process.Pid)
	start := startOf(t, "/proc", child.Process.Pid)
	config := DefaultConfig()
	config.BuildID = func(p uint32) string { return fmt.Sprintf("build-of-%d", p) }
	c := New(config)
	owner := chunk.Owner{TGID: pid, Start: start, Comm: "comm"}
	want := Process{Name: "sleep", PID: pid, BuildID: fmt.Sprintf("build-of-%d", pid)}
	at := 100 * time.Second
	got := c.Lookup(owner, at)
	got.Container, got.PodUID = "", ""
	if got != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	child.Process.Kill()
	child.Wait()
	c.Exit(pid, start, at+time.Second)
	if got := c.Lookup(owner, at+4*time.Minute); got.Name != "sleep" {
		t.Errorf("four minutes after its end: %+v", got)
	}
	// Silence for longer than that ends the memory.
	c.Exec(1<<30, 1, at+20*time.Minute, 0)
	if got := c.Lookup(owner, at+20*time.Minute); got.Name != "comm" || got.PID != pid {
		t.Errorf("twenty minutes after its end: %+v, want the kernel's comm", got)
	}
}

func TestAnotherProcessWithTheSameIDIsNotTaken(t *testing.T) {
	child := sleeper(t)
	pid := uint32(child.Process.Pid)
	start := startOf(t, "/proc", child.Process.Pid)
	c := New(DefaultConfig())
	got := c.Lookup(chunk.Owner{TGID: pid, Start: start - time.Second, Comm: "earlier"}, time.Hour)
	if got.Name != "earlier" || got.BuildID != "" {
		t.Errorf("got %+v: the answer is about whoever has the id now", got)
	}
	if s := c.Stats(); s.Gone != 1 {
		t.Errorf("stats %+v, want Gone 1", s)
	}
}

// host writes a procfs of one process.
func host(t *testing.T, pid int, start time.Duration, exe, cgroup string) string {
	t.Helper()
	proc := t.TempDir()
	write(t, proc, pid, start, exe, cgroup)
	return proc
}

func write(t *testing.T, proc string, pid int, start time.Duration, exe, cgroup string) {
	t.Helper()
	dir := filepath.Join(proc, strconv.Itoa(pid))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	stat := fmt.Sprintf("%d (a) b (c) S 1%s %d 0\n", pid, strings.Repeat(" 0", 17), start/tick)
	os.Remove(filepath.Join(dir, "exe"))
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o644),
		os.WriteFile(filepath.Join(dir, "cgroup"), []byte(cgroup), 0o644),
		os.Symlink(exe, filepath.Join(dir, "exe")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestExecMakesAVersion(t *testing.T) {
	const pid, start = 77, 50 * time.Second
	proc := host(t, pid, start, "/usr/sbin/nginx (deleted)", "0::/\n")
	config := DefaultConfig()
	config.Proc = proc
	c := New(config)
	c.Exec(pid, start, 60*time.Second, 0)
	write(t, proc, pid, start, "/usr/bin/\x1b[31mevil", "0::/\n")
	c.Exec(pid, start, 70*time.Second, 0)
	owner := chunk.Owner{TGID: pid, Start: start, Comm: "worker"}
	for at, want := range map[time.Duration]string{
		55 * time.Second: "worker", // before the first image that was seen
		65 * time.Second: "nginx",
		75 * time.Second: "?[31mevil",
	} {
		if got := c.Lookup(owner, at); got.Name != want {
			t.Errorf("at %v: %q, want %q", at, got.Name, want)
		}
	}
}

func TestCgroupTellsTheContainerOfAProcessThatIsGone(t *testing.T) {
	const pid, start = 88, 50 * time.Second
	id := strings.Repeat("ab", 32)
	proc := host(t, pid, start, "/bin/sh", "0::/docker/"+id+"\n")
	config := DefaultConfig()
	config.Proc = proc
	c := New(config)
	c.Exec(pid, start, time.Minute, 4242)
	got := c.Lookup(chunk.Owner{TGID: 89, Start: start, Cgroup: 4242, Comm: "curl"}, time.Minute)
	if got.Name != "curl" || got.Container != id {
		t.Errorf("got %+v", got)
	}
	if got := c.Lookup(chunk.Owner{TGID: 90, Start: start, Cgroup: 4243, Comm: "curl"}, time.Minute); got.Container != "" {
		t.Errorf("another cgroup: %+v", got)
	}
}

func TestHybridHostDoesNotMixContainers(t *testing.T) {
	const pid, start = 88, 50 * time.Second
	id := strings.Repeat("ab", 32)
	proc := host(t, pid, start, "/bin/sh", "4:memory:/docker/"+id+"\n0::/\n")
	config := DefaultConfig()
	config.Proc = proc
	c := New(config)
	c.Exec(pid, start, time.Minute, 1)
	// Every process of such a host is in cgroup v2 number 1.
	if got := c.Lookup(chunk.Owner{TGID: 89, Start: start, Cgroup: 1, Comm: "sshd"}, time.Minute); got.Container != "" {
		t.Errorf("got %+v", got)
	}
}

func TestCacheIsBounded(t *testing.T) {
	config := DefaultConfig()
	config.Proc, config.Max = t.TempDir(), 100
	c := New(config)
	for i := range uint32(1000) {
		c.Lookup(chunk.Owner{TGID: i + 1, Start: time.Second, Comm: "x"}, time.Duration(i)*time.Millisecond)
	}
	if len(c.records) > 100 {
		t.Errorf("%d records, want at most 100", len(c.records))
	}
	if s := c.Stats(); s.Evicted != 900 || s.Gone != 1000 {
		t.Errorf("stats %+v, want 900 evicted and 1000 gone", s)
	}
	for i := range maxVersions + 5 {
		write(t, config.Proc, 7777, time.Second, fmt.Sprintf("/bin/v%d", i), "")
		c.Exec(7777, time.Second, time.Duration(i)*time.Second, uint64(i))
	}
	if n := len(c.records[key{7777, time.Second}].versions); n != maxVersions {
		t.Errorf("%d versions, want %d", n, maxVersions)
	}
}
