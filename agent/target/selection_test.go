package target

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func openSpec(t *testing.T, target string) (*Selection, error) {
	t.Helper()
	spec, err := ParseSpec([]string{target})
	if err != nil {
		t.Fatal(err)
	}
	s, err := spec.Open("/proc")
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

func TestSelectNetNS(t *testing.T) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &st); err != nil {
		t.Fatal(err)
	}
	s := mustSelect(t, "netns=self", "!netns=/proc/self/ns/net")
	if !slices.Equal(s.Include.NetNS, []uint32{uint32(st.Ino)}) || !slices.Equal(s.Exclude.NetNS, []uint32{uint32(st.Ino)}) {
		t.Errorf("got %+v, want inode %d on both sides", s.Selector, st.Ino)
	}
	for target, says := range map[string]string{
		"netns=/nowhere":          "there is no such file",
		"netns=/proc/self/status": "no namespace file",
		"netns=/proc/self/ns/mnt": "another kind",
	} {
		if _, err := openSpec(t, target); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), target) {
			t.Errorf("%s: %v, want it to say %q", target, err, says)
		}
	}
}

func TestSelectCgroup(t *testing.T) {
	needRoot(t)
	root, err := cgroup2Mount("/proc")
	if err != nil {
		t.Skip(err)
	}
	name := fmt.Sprintf("spile-target-%d", os.Getpid())
	dir := filepath.Join(root, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip(err)
	}
	defer os.Remove(dir)
	inside, outside := run(t, "sleep", "60"), run(t, "sleep", "60")
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, inside.Process.Pid), 0); err != nil {
		t.Fatal(err)
	}
	defer func() { inside.Process.Kill(); inside.Wait() }()
	for _, spelling := range []string{dir, "/" + name, name} {
		s := mustSelect(t, "cgroup="+spelling)
		var st, want unix.Stat_t
		if len(s.Include.CgroupFDs) != 1 || unix.Fstat(s.Include.CgroupFDs[0], &st) != nil || unix.Stat(dir, &want) != nil || st.Ino != want.Ino {
			t.Errorf("%s: %+v is not the directory", spelling, s.Include)
		}
		if !s.wants(subject{pid: uint32(inside.Process.Pid)}) || s.wants(subject{pid: uint32(outside.Process.Pid)}) {
			t.Errorf("%s: wants the wrong process", spelling)
		}
		not := mustSelect(t, "!cgroup="+spelling)
		if not.wants(subject{pid: uint32(inside.Process.Pid)}) || !not.wants(subject{pid: uint32(outside.Process.Pid)}) {
			t.Errorf("!%s: wants the wrong process", spelling)
		}
	}
	for target, says := range map[string]string{
		"cgroup=/etc":     "cgroup v2",
		"cgroup=/nowhere": "there is no such file",
	} {
		if _, err := openSpec(t, target); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), root) {
			t.Errorf("%s: %v, want it to say %q and where to look", target, err, says)
		}
	}
	if v1 := "/sys/fs/cgroup/memory"; root != "/sys/fs/cgroup" {
		if _, err := openSpec(t, "cgroup="+v1); err == nil || !strings.Contains(err.Error(), "v2") {
			t.Errorf("a v1 directory: %v", err)
		}
	}
}

func TestSelectPIDWithChildren(t *testing.T) {
	shell := run(t, "sh", "-c", "sleep 61 & sleep 62 & wait")
	other := run(t, "sleep", "60")
	pid := uint32(shell.Process.Pid)
	var s *Selection
	eventually(t, "the children", func() bool {
		s = mustSelect(t, fmt.Sprintf("pid=%d", pid))
		return len(s.Include.PIDs) == 3
	})
	t.Cleanup(func() {
		for _, p := range s.Include.PIDs[1:] {
			unix.Kill(int(p), unix.SIGKILL)
		}
	})
	if s.Include.PIDs[0] != pid || slices.Contains(s.Include.PIDs, uint32(other.Process.Pid)) {
		t.Errorf("family of %d: %v", pid, s.Include.PIDs)
	}
	if _, err := openSpec(t, "pid=2147483646"); err == nil || !strings.Contains(err.Error(), "ps -e") {
		t.Errorf("a process that is not there: %v", err)
	}
}

func TestSelectionClosesWhatItHolds(t *testing.T) {
	count := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	before := count()
	for range 20 {
		spec, _ := ParseSpec([]string{"netns=self", "exe=sleep", "port=1"})
		s, err := spec.Open("/proc")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		// Refused half-way: the first namespace was already open.
		spec, _ = ParseSpec([]string{"netns=self", "netns=/nowhere"})
		if _, err := spec.Open("/proc"); err == nil {
			t.Fatal("opened a namespace that is nowhere")
		}
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestJudgeExe(t *testing.T) {
	dir := t.TempDir()
	real := copyFile(t, "/bin/sleep", filepath.Join(dir, "real-1.2"))
	if err := os.Symlink(real, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	s := mustSelect(t, "exe="+filepath.Join(dir, "link"), "exe=nginx", "exe=/opt/*/bin/app", "exe=*/curl", "!exe=/opt/b/bin/*")
	for path, want := range map[string]Verdict{
		real:                 {Include: true},
		"/usr/sbin/nginx":    {Include: true},
		"/usr/bin/curl":      {Include: true},
		"/usr/bin/curl2":     {},
		"/usr/sbin/nginx2":   {},
		"/opt/a/bin/app":     {Include: true},
		"/opt/a/c/bin/app":   {Include: true},
		"/opt/b/bin/app":     {Include: true, Exclude: true},
		"/opt/b/bin/b":       {Exclude: true},
		"/usr/sbin/nginx/sh": {},
	} {
		if got := s.JudgeExe(path); got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
	if v := s.installed; len(v) == 0 {
		t.Error("the program is installed and was not judged ahead")
	}
	child := run(t, real, "60")
	eventually(t, "exec", func() bool {
		_, _, path, err := exeOf("/proc", uint32(child.Process.Pid))
		return err == nil && path == real
	})
	id, exact, _, _ := exeOf("/proc", uint32(child.Process.Pid))
	if !exact || s.installed[id] != (Verdict{Include: true}) {
		t.Errorf("the kernel calls it %+v (exact %v), judged ahead: %+v", id, exact, s.installed)
	}
}
