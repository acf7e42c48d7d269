package origin

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

func TestPathsOfCgroups(t *testing.T) {
	c := &Cgroups{Root: t.TempDir()}
	pod := filepath.Join(c.Root, "kubepods.slice", "pod\xff1")
	if err := os.MkdirAll(pod, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(pod, "cgroup.procs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	id := inode(t, pod)
	for path, want := range map[string]string{c.Root: "/", filepath.Dir(pod): "/kubepods.slice", pod: "/kubepods.slice/pod\uFFFD1"} {
		if got := c.Path(inode(t, path)); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	if got := c.Path(inode(t, filepath.Join(pod, "cgroup.procs"))); !strings.HasPrefix(got, "cgroup ") {
		t.Errorf("a file is %q", got)
	}
	if err := os.RemoveAll(filepath.Dir(pod)); err != nil {
		t.Fatal(err)
	}
	if got := c.Path(id); got != "/kubepods.slice/pod\uFFFD1" {
		t.Errorf("after its end it is %q", got)
	}
	// A new one is found when it is time to look again.
	later := filepath.Join(c.Root, "later")
	if err := os.Mkdir(later, 0o700); err != nil {
		t.Fatal(err)
	}
	id = inode(t, later)
	delete(c.paths, id) // the inode of a directory that went is used again
	if got := c.Path(id); got != fmt.Sprintf("cgroup %d", id) {
		t.Errorf("looked again at once: %q", got)
	}
	c.looked = time.Now().Add(-lookAgain)
	if got := c.Path(id); got != "/later" {
		t.Errorf("%q", got)
	}
	if got := c.Path(0); got != "cgroup 0" {
		t.Errorf("no id: %q", got)
	}
}

func TestTheCgroupsOfThisHost(t *testing.T) {
	c := NewCgroups()
	if c.Root == "" {
		if got := c.Path(1); got != "cgroup 1" {
			t.Errorf("without a hierarchy: %q", got)
		}
		return
	}
	if got := c.Path(inode(t, c.Root)); got != "/" {
		t.Errorf("the root is %q", got)
	}
}
