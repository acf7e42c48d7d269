package probe

import (
	"errors"
	"os"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/spile/spile/agent/target"
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
	atExit  bool // by return probes
	symbols []string
	offsets []uint64
}

// placements groups sites by program: one uprobe_multi link serves all places of one program.
func placements(sites []target.Site) []placement {
	var list []placement
	put := func(program string, atExit bool, symbol string, offsets ...uint64) {
		if program == "" {
			return
		}
		i := slices.IndexFunc(list, func(p placement) bool { return p.program == program && p.atExit == atExit })
		if i < 0 {
			i = len(list)
			list = append(list, placement{program: program, atExit: atExit})
		}
		for _, offset := range offsets {
			// Two names of one function (an alias) must not fire twice.
			if !slices.Contains(list[i].offsets, offset) {
				list[i].offsets = append(list[i].offsets, offset)
				list[i].symbols = append(list[i].symbols, symbol)
			}
		}
	}
	for _, s := range sites {
		// Exits first: a call that begins between the two links then ends unseen, instead of beginning and never ending.
		if len(s.Returns) > 0 {
			put(s.Exit, false, s.Symbol, s.Returns...)
		} else {
			put(s.Exit, true, s.Symbol, s.Offset)
		}
	}
	for _, s := range sites {
		put(s.Enter, false, s.Symbol, s.Offset)
	}
	return list
}

// attach puts the programs at the sites of an open file. On error nothing stays attached.
func attach(programs Programs, f target.File) ([]link.Link, error) {
	what := "attach to " + f.Path
	if len(f.Sites) == 0 || f.Handle == nil {
		return nil, &target.Problem{What: what, Why: "no place for a probe was found in it", Remedy: "use another build of the file"}
	}
	if !programs.UprobeMulti() {
		if _, err := os.Stat("/sys/bus/event_source/devices/uprobe/type"); err != nil {
			return nil, &target.Problem{What: what, Why: "this kernel has no uprobe events, or /sys is not mounted",
				Remedy: "mount sysfs, or use a kernel built with CONFIG_UPROBE_EVENTS", Cause: err}
		}
	}
	// By descriptor: the path inside a container leads elsewhere for us, and may have been replaced meanwhile.
	exe, err := link.OpenExecutable("/proc/self/fd/" + strconv.Itoa(int(f.Handle.Fd())))
	if err != nil {
		return nil, attempt{what: what}.refused(err)
	}
	var links []link.Link
	for _, p := range placements(f.Sites) {
		what := "attach " + p.symbols[0] + " to " + f.Path
		program := programs.Program(p.program)
		if program == nil {
			closeAll(links)
			return nil, &target.Problem{What: what, Why: "program " + p.program + " is not loaded", Remedy: "the agent and its programs are of different versions: reinstall it"}
		}
		more, err := place(exe, program, programs.UprobeMulti(), p, f.Only)
		links = append(links, more...)
		if err != nil {
			closeAll(links)
			return nil, attempt{what, programs.UprobeMulti(), f.Only}.refused(err)
		}
	}
	return links, nil
}

func place(exe *link.Executable, program *ebpf.Program, multi bool, p placement, only uint32) ([]link.Link, error) {
	if multi {
		put := exe.UprobeMulti
		if p.atExit {
			put = exe.UretprobeMulti
		}
		l, err := put(nil, program, &link.UprobeMultiOptions{Addresses: p.offsets, PID: only})
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
		l, err := put("", program, &link.UprobeOptions{Address: offset, PID: int(only)})
		if err != nil {
			return links, err
		}
		links = append(links, l)
	}
	return links, nil
}

func closeAll(links []link.Link) error {
	var errs []error
	for _, l := range links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}
