package target

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/bpf"
)

// TestTheKernelCallsProgramsTheSame compares the ids derived from procfs with those that the programs look up.
func TestTheKernelCallsProgramsTheSame(t *testing.T) {
	needRoot(t)
	sel := mustSelect(t, "netns=self")
	objects, err := bpf.Load(bpf.Options{Select: sel.Selector, RingBytes: 1 << 20})
	if err != nil {
		t.Skip(err)
	}
	defer objects.Close()
	want := map[uint32]string{}
	begin := func(path string) {
		c := run(t, path, "60")
		want[uint32(c.Process.Pid)] = path
		eventually(t, "exec", func() bool { _, _, exe, err := exeOf("/proc", uint32(c.Process.Pid)); return err == nil && exe == path })
	}
	begin(copyFile(t, "/bin/sleep", filepath.Join(t.TempDir(), "plain")))
	image, layer := t.TempDir(), t.TempDir()
	for _, dir := range []string{image, layer} {
		if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	}
	begin(copyFile(t, "/bin/sleep", filepath.Join(image, "on-tmpfs")))
	for _, sub := range []string{"upper", "work", "root"} {
		os.Mkdir(filepath.Join(layer, sub), 0o755)
	}
	root := filepath.Join(layer, "root")
	// Lower and upper layers on two file systems: then stat shows a device that no superblock has.
	if err := unix.Mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", image, layer, layer)); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	begin(filepath.Join(root, "on-tmpfs"))
	begin(copyFile(t, "/bin/sleep", filepath.Join(root, "copied-up")))

	running, err := objects.Processes()
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, p := range running {
		path, ours := want[p.TGID]
		if !ours {
			continue
		}
		compared++
		id, exact, _, err := exeOf("/proc", p.TGID)
		if err != nil || !exact || id != p.Exe {
			t.Errorf("%s: the kernel says %+v, procfs %+v (exact %v, %v)", path, p.Exe, id, exact, err)
		}
		if known, err := identify(path); err != nil || known != p.Exe {
			t.Errorf("%s: judged ahead it would be %+v, the kernel says %+v (%v)", path, known, p.Exe, err)
		}
	}
	if compared != len(want) {
		t.Errorf("%d programs compared, want %d", compared, len(want))
	}
}
