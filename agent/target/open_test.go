package target

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/bpf"
)

func TestParseMapping(t *testing.T) {
	id := bpf.FileID{Dev: 0xfe<<20 | 1, Ino: 99}
	for line, want := range map[string]mapping{
		"7f00-7f10 r-xp 00026000 fe:01 99                     /usr/lib/libssl.so.3":           {span: "7f00-7f10", id: id, path: "/usr/lib/libssl.so.3"},
		"7f00-7f10 r-xp 00026000 fe:01 99                     /tmp/a b/libssl.so.3 (deleted)": {span: "7f00-7f10", id: id, path: "/tmp/a b/libssl.so.3", deleted: true},
		`7f00-7f10 rwxs 00000000 fe:01 99    /tmp/new\012line`:                                {span: "7f00-7f10", id: id, path: "/tmp/new\nline"},
		"7f00-7f10 r--p 00026000 fe:01 99                     /usr/lib/libssl.so.3":           {},
		"7ffd-7ffe r-xp 00000000 00:00 0                      [vdso]":                         {},
		"7ffd-7ffe rwxp 00000000 00:00 0":                                                     {},
		"":                                                                                    {}, "x": {}, "7f00-7f10 r-xp 0 zz:01 99 /x": {}, "7f00-7f10 r-xp 0 fe01 99 /x": {}, "a b c d e f": {},
	} {
		got, ok := parseMapping(line)
		if got != want || ok != (want != mapping{}) {
			t.Errorf("%q: %+v %v, want %+v", line, got, ok, want)
		}
	}
}

func FuzzMappings(f *testing.F) {
	text, _ := os.ReadFile("/proc/self/maps")
	f.Add(string(text))
	f.Add(`7f00-7f10 rwxs 0 fe:01 99    /tmp/new\012\9line` + "\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		found, _ := readMappings(strings.NewReader(text))
		for _, m := range found {
			if !strings.HasPrefix(m.path, "/") || m.id.Ino == 0 {
				t.Errorf("%+v is no mapped file", m)
			}
		}
	})
}

// mappingOf finds the line of a library in a process.
func mappingOf(t *testing.T, pid uint32, name string) mapping {
	t.Helper()
	found, err := readMappings(open(t, procPath("/proc", pid, "maps")))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range found {
		if filepath.Base(m.path) == name {
			return m
		}
	}
	t.Fatalf("process %d does not map %s", pid, name)
	return mapping{}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestOpenMappedFindsTheVeryFile(t *testing.T) {
	needRoot(t)
	path := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	old := inode(t, path)
	c := python(t, nil)
	c.load(t, path)
	m := mappingOf(t, c.pid(), "libssl.so.3")
	check := func(when string) {
		t.Helper()
		f, err := openMapped("/proc", c.pid(), m)
		if err != nil {
			t.Fatal(when, err)
		}
		defer f.Close()
		if got := inode(t, fmt.Sprintf("/proc/self/fd/%d", f.Fd())); got != old {
			t.Errorf("%s: inode %d, want %d", when, got, old)
		}
	}
	check("as it was")
	other := copyFile(t, systemLibrary(t), path+".new")
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	m = mappingOf(t, c.pid(), "libssl.so.3")
	if !m.deleted {
		t.Fatal("the kernel does not call the replaced file deleted")
	}
	check("replaced on disk")
	// Without map_files (no CAP_CHECKPOINT_RESTORE) a path is all there is; it leads to the new file, and is refused.
	m.span = "0-1"
	if f, err := openMapped("/proc", c.pid(), m); err == nil {
		f.Close()
		t.Error("a deleted file was opened by its path")
	}
	m.deleted = false
	if _, err := openMapped("/proc", c.pid(), m); !errors.Is(err, ErrChanged) {
		t.Errorf("by path: %v, want %v", err, ErrChanged)
	}
}

func TestOpenMappedByPath(t *testing.T) {
	needRoot(t)
	c := python(t, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS})
	// A tmpfs that only the child sees: its path leads nowhere in our own namespace.
	dir := t.TempDir()
	inChild := fmt.Sprintf("/proc/%d/root", c.pid())
	script := fmt.Sprintf("mount -t tmpfs none %s && cp %s %s/libssl.so.3", dir, systemLibrary(t), dir)
	if out, err := execIn(c.pid(), script); err != nil {
		t.Skipf("mount in the child: %v: %s", err, out)
	}
	path := filepath.Join(dir, "libssl.so.3")
	c.load(t, path)
	if _, err := os.Stat(path); err == nil {
		t.Fatal("the mount is not private")
	}
	m := mappingOf(t, c.pid(), "libssl.so.3")
	want := inode(t, inChild+path)
	for _, span := range []string{m.span, "0-1"} {
		m.span = span
		f, err := openMapped("/proc", c.pid(), m)
		if err != nil {
			t.Fatal(err)
		}
		if got := inode(t, fmt.Sprintf("/proc/self/fd/%d", f.Fd())); got != want {
			t.Errorf("inode %d, want %d", got, want)
		}
		f.Close()
	}
}

func TestOpenRegularStaysInside(t *testing.T) {
	needRoot(t)
	jail := t.TempDir()
	secret := filepath.Join(t.TempDir(), "libssl.so.3")
	copyFile(t, "/bin/true", secret)
	root, err := os.OpenFile(jail, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := unix.Mkfifo(filepath.Join(jail, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"abs": secret, "up": "../../../../../../../.." + secret, "magic": "/proc/self/root" + secret, "dir": "/"} {
		if err := os.Symlink(to, filepath.Join(jail, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"/abs", "/up", "/magic", "/fifo", "/dir", "/", "/../../../.." + secret} {
		done := make(chan error, 1)
		go func() {
			f, err := openRegular(int(root.Fd()), name, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
			if err == nil {
				f.Close()
			}
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%s was opened", name)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("opening %s waits", name)
		}
	}
}

func TestIdentity(t *testing.T) {
	needRoot(t)
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
			t.Skip(err)
		}
		defer unix.Unmount(dir, unix.MNT_DETACH)
		copyFile(t, "/bin/true", filepath.Join(dir, "libssl.so.3"))
	}
	if inode(t, a+"/libssl.so.3") != inode(t, b+"/libssl.so.3") {
		t.Fatal("two fresh file systems number their first files differently; the test has lost its point")
	}
	if id, other := identityOf(t, a), identityOf(t, b); id == other {
		t.Errorf("two files with inode %d are one: %+v", id.Ino, id)
	}
}

func identityOf(t *testing.T, dir string) Identity {
	t.Helper()
	f := Describe(NewCache(slow()), Libraries()[0], dir, open(t, filepath.Join(dir, "libssl.so.3")))
	return f.ID
}

func TestIdentityOnOverlay(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	if err := unix.Mount("none", base, "tmpfs", 0, ""); err != nil {
		t.Skip(err)
	}
	defer unix.Unmount(base, unix.MNT_DETACH)
	lower := filepath.Join(base, "image")
	copyFile(t, systemLibrary(t), filepath.Join(lower, "libssl.so.3"))
	container := func(name string) string {
		dir := filepath.Join(base, name)
		for _, sub := range []string{"upper", "work", "root"} {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, dir, dir)
		root := filepath.Join(dir, "root")
		if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
		return root
	}
	one, two := container("one"), container("two")
	if a, b := identityOf(t, one), identityOf(t, two); a != b || a.BuildID == "" || a.Dev != 0 {
		t.Errorf("one file of one image, seen through two containers:\n%+v\n%+v", a, b)
	}
	// Written to in one container, it is a file of that container.
	f, err := os.OpenFile(filepath.Join(two, "libssl.so.3"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("x")
	f.Close()
	if a, b := identityOf(t, one), identityOf(t, two); a == b {
		t.Errorf("copied up and still one: %+v", a)
	}
	// The program's identity, as the kernel will look it up, is on the overlay itself.
	program := copyFile(t, "/bin/sleep", filepath.Join(one, "program"))
	c := run(t, program, "60")
	eventually(t, "exec", func() bool {
		_, _, path, err := exeOf("/proc", uint32(c.Process.Pid))
		return err == nil && path == program
	})
	id, exact, _, err := exeOf("/proc", uint32(c.Process.Pid))
	var st unix.Stat_t
	if err != nil || !exact || unix.Stat(one, &st) != nil || id.Dev != shownDevice(st.Dev) {
		t.Errorf("the kernel calls the program %+v (exact %v, %v), want the overlay's device %#x", id, exact, err, shownDevice(st.Dev))
	}
}
