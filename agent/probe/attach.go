package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/spile/spile/agent/target"
	"golang.org/x/sys/unix"
)

// Programs is where the programs come from: *bpf.Objects.
type Programs interface {
	Program(name string) *ebpf.Program
	// UprobeMulti reports whether the programs were loaded for uprobe_multi links (Linux 6.6).
	UprobeMulti() bool
}

// placement is one program and every place in a file where it goes.
type placement struct {
	program string
	atExit  bool
	symbols []string
	offsets []uint64
}

// placements groups sites by program: one uprobe_multi link serves all places of one program.
func placements(sites []target.Site) []placement {
	var list []placement
	put := func(program string, atExit bool, s target.Site) {
		if program == "" {
			return
		}
		i := slices.IndexFunc(list, func(p placement) bool { return p.program == program && p.atExit == atExit })
		if i < 0 {
			i = len(list)
			list = append(list, placement{program: program, atExit: atExit})
		}
		// Two names of one function (an alias) must not fire twice.
		if !slices.Contains(list[i].offsets, s.Offset) {
			list[i].offsets = append(list[i].offsets, s.Offset)
			list[i].symbols = append(list[i].symbols, s.Symbol)
		}
	}
	for _, s := range sites {
		// Exits first: a call that begins between the two links then ends unseen, instead of beginning and never ending.
		put(s.Exit, true, s)
	}
	for _, s := range sites {
		put(s.Enter, false, s)
	}
	return list
}

// attach puts the programs at the sites of an open file. On error nothing stays attached.
func attach(programs Programs, file *os.File, path string, sites []target.Site) ([]link.Link, error) {
	if len(sites) == 0 {
		return nil, fmt.Errorf("attach to %s: it has no place for a probe", path)
	}
	if !programs.UprobeMulti() {
		if _, err := os.Stat("/sys/bus/event_source/devices/uprobe/type"); err != nil {
			return nil, fmt.Errorf("attach to %s: this kernel has no uprobe events; use one built with CONFIG_UPROBE_EVENTS", path)
		}
	}
	// By descriptor: the path inside a container leads elsewhere for us, and may have been replaced meanwhile.
	exe, err := link.OpenExecutable("/proc/self/fd/" + strconv.Itoa(int(file.Fd())))
	if err != nil {
		return nil, fmt.Errorf("attach to %s: open it by descriptor: %w", path, err)
	}
	var links []link.Link
	for _, p := range placements(sites) {
		more, err := place(programs, exe, p)
		links = append(links, more...)
		if err != nil {
			closeAll(links)
			return nil, fmt.Errorf("attach %s to %s: %w", p.symbols[0], path, explain(err, programs.UprobeMulti()))
		}
	}
	return links, nil
}

func place(programs Programs, exe *link.Executable, p placement) ([]link.Link, error) {
	program := programs.Program(p.program)
	if program == nil {
		return nil, fmt.Errorf("program %s is not loaded; the agent and its programs are of different versions", p.program)
	}
	if programs.UprobeMulti() {
		put := exe.UprobeMulti
		if p.atExit {
			put = exe.UretprobeMulti
		}
		l, err := put(nil, program, &link.UprobeMultiOptions{Addresses: p.offsets})
		if err != nil {
			return nil, err
		}
		return []link.Link{l}, nil
	}
	put := exe.Uprobe
	if p.atExit {
		put = exe.Uretprobe
	}
	var links []link.Link
	for _, offset := range p.offsets {
		l, err := put("", program, &link.UprobeOptions{Address: offset})
		if err != nil {
			return links, err
		}
		links = append(links, l)
	}
	return links, nil
}

// explain adds what to do. A bare errno helps nobody.
func explain(err error, multi bool) error {
	switch {
	case errors.Is(err, fs.ErrPermission) && multi:
		return fmt.Errorf("the kernel refused it (%w); give the agent CAP_BPF and CAP_PERFMON", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the kernel refused it (%w); before Linux 6.6 uprobes need CAP_SYS_ADMIN as well", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the kernel does not accept this place (%w); the file may use instructions that it cannot step over", err)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return fmt.Errorf("too many files are open (%w); raise LimitNOFILE of the agent", err)
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("the kernel has no memory for it (%w); raise the memory limit of the agent", err)
	}
	return err
}

func closeAll(links []link.Link) error {
	var errs []error
	for _, l := range links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}
