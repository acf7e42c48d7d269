package target

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// subject is a process as user space can judge it.
type subject struct {
	pid     uint32
	exe     Verdict
	lineage func(roots []uint32) bool // whether the process or an ancestor is one of roots
}

// wants reports whether the kernel may select traffic of a process. It decides only which libraries are attached:
// what cannot be told from here, such as a port, counts as "may". The kernel decides about every byte.
func (s *Selection) wants(p subject) bool {
	if s.spec.Everything() {
		return true
	}
	in, out := s.spec.Include, s.spec.Exclude
	if len(in.NetNS) > 0 && !s.inNetNS(p.pid, s.Include.NetNS, true) || s.inNetNS(p.pid, s.Exclude.NetNS, false) {
		return false
	}
	if len(in.Cgroups) > 0 && !s.inCgroup(p.pid, in.Cgroups, true) || s.inCgroup(p.pid, out.Cgroups, false) {
		return false
	}
	if len(in.Exes) > 0 && !p.exe.Include || p.exe.Exclude {
		return false
	}
	if len(in.PIDs) > 0 && !p.lineage(s.Include.PIDs) || len(out.PIDs) > 0 && p.lineage(s.Exclude.PIDs) {
		return false
	}
	return true
}

func (s *Selection) inNetNS(pid uint32, inodes []uint32, unknown bool) bool {
	if len(inodes) == 0 {
		return false
	}
	var st unix.Stat_t
	if err := unix.Stat(procPath(s.proc, pid, "ns/net"), &st); err != nil {
		return unknown
	}
	// A socket belongs to the namespace in which it was made, and a thread may have moved since. Being wrong here
	// costs an attachment, never a byte.
	return slices.Contains(inodes, uint32(st.Ino))
}

func (s *Selection) inCgroup(pid uint32, values []string, unknown bool) bool {
	if len(values) == 0 {
		return false
	}
	text, err := os.ReadFile(procPath(s.proc, pid, "cgroup"))
	if err != nil {
		return unknown
	}
	for line := range strings.Lines(string(text)) {
		own, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		// From inside a cgroup namespace, what lies outside is spelled with "..".
		if strings.HasPrefix(own, "/..") {
			return unknown
		}
		for _, value := range values {
			root, known := s.cgroups[value]
			if !known {
				return unknown
			}
			if within(root, filepath.Clean(own)) {
				return true
			}
		}
		return false
	}
	return unknown
}
