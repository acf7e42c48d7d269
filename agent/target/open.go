package target

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/bpf"
)

// Identity is one real file. A probe sits on the inode, so this is what "attach once" is about.
//
// On overlayfs two containers of one image show the same inode under two devices, and the device of the layer is not
// to be had. There Dev is 0 and the birth time of the inode takes its place.
type Identity struct {
	Dev, Ino uint64
	Born     int64 // nanoseconds since 1970; 0 = the file system does not say
	BuildID  string
}

// SameInode reports whether two names are surely of one inode, or as surely as can be told: the one as an overlay shows
// it, and the other as its layer does.
func (id Identity) SameInode(other Identity) bool {
	return id == other || (id.Dev == 0) != (other.Dev == 0) && id.Born != 0 &&
		id.Ino == other.Ino && id.Born == other.Born && id.BuildID == other.BuildID
}

// stamp is Identity before the file was read, with what changes when somebody writes into it.
type stamp struct {
	id       Identity
	size     uint64
	modified int64
	changed  int64
}

// openMapped opens the very file that a process has mapped, deleted or replaced on disk though it may be.
func openMapped(proc string, pid uint32, m mapping) (*os.File, error) {
	// The kernel hands out the mapped file itself. Needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
	f, err := openRegular(unix.AT_FDCWD, procPath(proc, pid, "map_files/"+m.span), 0)
	if err == nil {
		return f, nil
	}
	if m.deleted {
		return nil, cannotOpen(m, pid, err)
	}
	root, err := os.OpenFile(procPath(proc, pid, "root"), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, cannotOpen(m, pid, err)
	}
	defer root.Close()
	f, err = openRegular(int(root.Fd()), m.path, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return nil, cannotOpen(m, pid, err)
	}
	if err := verify(proc, pid, f, m.id); err != nil {
		f.Close()
		return nil, cannotOpen(m, pid, err)
	}
	return f, nil
}

// openRegular looks before it opens: opening a FIFO waits, and opening a device acts.
func openRegular(dir int, path string, resolve uint64) (*os.File, error) {
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve})
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errNotRegular
	}
	// procfs reopens the inode itself, so nothing can be put in its place between the two.
	return os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

func verify(proc string, pid uint32, f *os.File, want bpf.FileID) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Ino != want.Ino {
		return ErrChanged
	}
	if shownDevice(st.Dev) == want.Dev {
		return nil
	}
	// btrfs shows a device per subvolume and overlayfs one per layer; the mount table has the superblock's.
	if id, _, err := kernelID(proc, pid, f); err == nil && id.Dev == want.Dev {
		return nil
	}
	// Before 6.8 a mapping on overlayfs shows the device of the layer, which nothing else does.
	if onOverlay(f) {
		return nil
	}
	return ErrChanged
}

func shownDevice(dev uint64) uint64 {
	return uint64(unix.Major(dev))<<20 | uint64(unix.Minor(dev))
}

func onOverlay(f *os.File) bool {
	var fsInfo unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &fsInfo) == nil && fsInfo.Type == unix.OVERLAYFS_SUPER_MAGIC
}

// kernelID asks which superblock and inode the kernel's struct file has. The mount may be one that only process pid
// sees, so its mount table is the one to ask. exact is false where that table does not show the mount.
func kernelID(proc string, pid uint32, f *os.File) (id bpf.FileID, exact bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return bpf.FileID{}, false, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	id = bpf.FileID{Dev: shownDevice(st.Dev), Ino: st.Ino}
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return id, false, fmt.Errorf("read fdinfo of %s: %w", f.Name(), err)
	}
	mount := ""
	for line := range strings.Lines(string(info)) {
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); key {
		case "mnt_id":
			mount = value
		case "ino": // since 5.14
			if ino, err := strconv.ParseUint(value, 10, 64); err == nil {
				id.Ino = ino
			}
		}
	}
	dev, exact := mountDevice(procPath(proc, pid, "mountinfo"), mount)
	if exact {
		id.Dev = dev
	}
	return id, exact, nil
}

// mountDevice finds "ID PARENT MAJOR:MINOR ..." (proc_pid_mountinfo(5)).
func mountDevice(table, mount string) (uint64, bool) {
	f, err := os.Open(table)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(make([]byte, 0, 8<<10), 256<<10)
	for lines.Scan() {
		fields := strings.SplitN(lines.Text(), " ", 4)
		if len(fields) < 4 || fields[0] != mount {
			continue
		}
		major, minor, _ := strings.Cut(fields[2], ":")
		ma, err1 := strconv.ParseUint(major, 10, 32)
		mi, err2 := strconv.ParseUint(minor, 10, 32)
		return ma<<20 | mi, errors.Join(err1, err2) == nil
	}
	return 0, false
}

// stampOf names an open file without reading it.
func stampOf(f *os.File) (stamp, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		return stamp{}, fmt.Errorf("stat %s: %w", filepath.Base(f.Name()), err)
	}
	nanos := func(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }
	s := stamp{
		id:       Identity{Dev: uint64(st.Dev_major)<<20 | uint64(st.Dev_minor), Ino: st.Ino},
		size:     st.Size,
		modified: nanos(st.Mtime),
		changed:  nanos(st.Ctime),
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		s.id.Born = nanos(st.Btime)
	}
	if onOverlay(f) {
		s.id.Dev = 0
		if s.id.Born == 0 {
			s.id.Born = nanos(st.Mtime)
		}
	}
	return s, nil
}
