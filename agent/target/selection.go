package target

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/bpf"
)

// Selection is a Spec looked up on this host. It holds what it names, so that no inode can be used again meanwhile.
type Selection struct {
	bpf.Selector

	spec    Spec
	proc    string
	cgroups map[string]string // cgroup value → path as /proc/PID/cgroup spells it
	held    []*os.File

	links     map[string]Verdict     // programs that a pattern reaches through a link
	installed map[bpf.FileID]Verdict // programs that the patterns name in this mount namespace
}

// Open looks the spec up. proc is where procfs is mounted, normally "/proc".
func (s Spec) Open(proc string) (*Selection, error) {
	sel := &Selection{spec: s, proc: proc, cgroups: map[string]string{}}
	for _, part := range []struct {
		terms Terms
		rules *bpf.Rules
	}{{s.Include, &sel.Include}, {s.Exclude, &sel.Exclude}} {
		if err := sel.lookUp(part.terms, part.rules); err != nil {
			sel.Close()
			return nil, err
		}
	}
	if sel.JudgesExe() {
		sel.expand()
	}
	return sel, nil
}

// Close lets go of namespaces and cgroups. The kernel keeps its own references once it has the rules.
func (s *Selection) Close() error {
	var errs []error
	for _, f := range s.held {
		errs = append(errs, f.Close())
	}
	s.held = nil
	return errors.Join(errs...)
}

func (s *Selection) lookUp(t Terms, r *bpf.Rules) error {
	for _, value := range t.NetNS {
		inode, err := s.openNetNS(value)
		if err != nil {
			return fmt.Errorf("target netns=%s: %w", value, err)
		}
		r.NetNS = append(r.NetNS, inode)
	}
	for _, value := range t.Cgroups {
		fd, err := s.openCgroup(value)
		if err != nil {
			return fmt.Errorf("target cgroup=%s: %w", value, err)
		}
		r.CgroupFDs = append(r.CgroupFDs, fd)
	}
	if len(t.PIDs) > 0 {
		family, err := families(s.proc, t.PIDs)
		if err != nil {
			return err
		}
		r.PIDs = family
	}
	r.Exe = len(t.Exes) > 0
	r.Ports = slices.Clone(t.Ports)
	return nil
}

func (s *Selection) openNetNS(value string) (uint32, error) {
	path := value
	if value == "self" {
		path = filepath.Join(s.proc, "self/ns/net")
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("%w; give self, /run/netns/NAME or /proc/PID/ns/net", reword(err))
	}
	var fsInfo unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fsInfo); err != nil || fsInfo.Type != unix.NSFS_MAGIC {
		f.Close()
		return 0, errors.New("this is no namespace file; give self, /run/netns/NAME or /proc/PID/ns/net")
	}
	// Every namespace kind lives on nsfs; only the kernel knows which one this is.
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		f.Close()
		return 0, errors.New("this is a namespace of another kind; give the ns/net file of a process")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return 0, fmt.Errorf("stat the namespace: %w", err)
	}
	s.held = append(s.held, f)
	return uint32(st.Ino), nil
}

func (s *Selection) openCgroup(value string) (int, error) {
	root, err := cgroup2Mount(s.proc)
	if err != nil {
		return 0, err
	}
	path := value
	if !within(root, value) {
		// The way /proc/PID/cgroup and systemd spell it: relative to the hierarchy.
		path = filepath.Join(root, value)
		if st, err := os.Stat(value); err == nil && st.IsDir() && filepath.IsAbs(value) {
			path = value
		}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, fmt.Errorf("%w; give a directory below %s (systemd-cgls shows them)", reword(err), root)
	}
	var fsInfo unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fsInfo); err != nil || fsInfo.Type != unix.CGROUP2_SUPER_MAGIC {
		f.Close()
		return 0, fmt.Errorf("%s is not in the cgroup v2 hierarchy; give a directory below %s", path, root)
	}
	if rel, err := filepath.Rel(root, path); err == nil {
		s.cgroups[value] = filepath.Join("/", rel)
	}
	s.held = append(s.held, f)
	return int(f.Fd()), nil
}

// cgroup2Mount finds where the v2 hierarchy is mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified on hybrid hosts.
func cgroup2Mount(proc string) (string, error) {
	text, err := os.ReadFile(filepath.Join(proc, "self/mountinfo"))
	if err != nil {
		return "", fmt.Errorf("read the mount table: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if ok && strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 {
			return unescape(fields[4]), nil
		}
	}
	return "", errors.New("no cgroup v2 hierarchy is mounted; mount one with: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

func within(root, path string) bool {
	path = filepath.Clean(path)
	return path == root || strings.HasPrefix(path, strings.TrimSuffix(root, "/")+"/")
}

// reword keeps an errno from being the whole message.
func reword(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("there is no such file")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("it may not be opened by this user; run as root or with CAP_SYS_PTRACE")
	}
	return err
}
