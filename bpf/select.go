package bpf

import (
	"fmt"
	"os"

	"github.com/cilium/ebpf"
)

// FileID names an executable as the kernel does: Dev is its dev_t, MAJOR<<20 | MINOR.
type FileID struct{ Dev, Ino uint64 }

// Rules of one kind are alternatives; kinds that have rules must all agree.
type Rules struct {
	NetNS     []uint32 // inodes of network namespaces
	CgroupFDs []int    // open directories of cgroup v2; with all that is below them
	Exe       bool     // rules about executables exist; the verdicts come by SetExe
	PIDs      []uint32 // as the kernel's first namespace numbers them; with their children
	Ports     []uint16 // of either end
}

// Selector says what is watched: what Include matches, unless Exclude does. No rules: everything.
type Selector struct{ Include, Exclude Rules }

// As in select.h.
const (
	kindNetNS = 1 << iota
	kindCgroup
	kindExe
	kindPID
	kindPort

	verdictInclude = 1
	verdictExclude = 2
	verdictKnown   = 4

	maxCgroups = 16
)

func (r Rules) kinds() (kinds uint32) {
	for kind, has := range map[uint32]bool{
		kindNetNS:  len(r.NetNS) > 0,
		kindCgroup: len(r.CgroupFDs) > 0,
		kindExe:    r.Exe,
		kindPID:    len(r.PIDs) > 0,
		kindPort:   len(r.Ports) > 0,
	} {
		if has {
			kinds |= kind
		}
	}
	return kinds
}

func (s Selector) check() error {
	for _, r := range []Rules{s.Include, s.Exclude} {
		if len(r.CgroupFDs) > maxCgroups {
			return fmt.Errorf("%w: at most %d cgroups can be named on each side, not %d", ErrOption, maxCgroups, len(r.CgroupFDs))
		}
	}
	return nil
}

// fillSelection writes the rules before any hook can run.
func (o *Objects) fillSelection(options Options) error {
	in, ex := options.Select.Include, options.Select.Exclude
	self, err := o.self()
	if err != nil {
		return err
	}
	// Not os.Getpid: in a container that number may be another process's in the kernel's eyes.
	excluded := []uint32{self}
	if self == uint32(os.Getpid()) { // else the caller's numbers are not the kernel's either
		excluded = append(excluded, options.ExcludePIDs...)
	}
	var first procSelection
	if copy(first.Selves[:], excluded) < len(excluded) {
		return fmt.Errorf("%w: at most %d processes can be left out by number, not %d", ErrOption, len(first.Selves)-1, len(excluded)-1)
	}
	if len(in.NetNS) == 1 && len(ex.NetNS) == 0 {
		first.Netns = in.NetNS[0]
	}
	if err := o.maps["selections"].Put(uint32(0), first); err != nil {
		return fmt.Errorf("exclude the agent itself: %w", err)
	}
	if err := addVerdicts(o.maps["select_netns"], in.NetNS, ex.NetNS); err != nil {
		return fmt.Errorf("select network namespaces: %w", err)
	}
	if err := addVerdicts(o.maps["select_pid"], in.PIDs, ex.PIDs); err != nil {
		return fmt.Errorf("select processes: %w", err)
	}
	if err := addVerdicts(o.maps["select_port"], in.Ports, ex.Ports); err != nil {
		return fmt.Errorf("select ports: %w", err)
	}
	for side, fds := range [][]int{in.CgroupFDs, ex.CgroupFDs} {
		for i, fd := range fds {
			if err := o.maps["select_cgroup"].Put(uint32(side*maxCgroups+i), uint32(fd)); err != nil {
				return fmt.Errorf("select cgroup (a directory of the cgroup v2 file system is needed): %w", err)
			}
		}
	}
	if len(in.NetNS) > 0 {
		o.netns = map[uint32]struct{}{}
		for _, ns := range in.NetNS {
			o.netns[ns] = struct{}{}
		}
	}
	o.includesPIDs = len(in.PIDs) > 0
	o.pids = o.includesPIDs || len(ex.PIDs) > 0
	return nil
}

func addVerdicts[K comparable](m *ebpf.Map, include, exclude []K) error {
	for _, k := range include {
		if err := addVerdict(m, k, verdictInclude); err != nil {
			return err
		}
	}
	for _, k := range exclude {
		if err := addVerdict(m, k, verdictExclude); err != nil {
			return err
		}
	}
	return nil
}

func addVerdict[K comparable](m *ebpf.Map, key K, verdict uint8) error {
	var old uint8
	// A missing entry is a zero verdict.
	_ = m.Lookup(key, &old)
	if err := m.Put(key, old|verdict); err != nil {
		return fmt.Errorf("write %v: %w", key, err)
	}
	return nil
}

// SetExe gives the verdict on an executable, as its rules see its path. Until then no call of it is read.
func (o *Objects) SetExe(id FileID, include, exclude bool) error {
	verdict := uint8(verdictKnown)
	if include {
		verdict |= verdictInclude
	}
	if exclude {
		verdict |= verdictExclude
	}
	if err := o.maps["select_exe"].Put(procFileId{Dev: id.Dev, Ino: id.Ino}, verdict); err != nil {
		return fmt.Errorf("write the verdict on file %d:%d: %w", id.Dev, id.Ino, err)
	}
	return nil
}
