package probe

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/spile/spile/agent/target"
)

// part is a placement that is in the kernel.
type part struct {
	placement
	slots []uint32
	links []link.Link
	until time.Time // when it goes; zero = with its file
}

// returns reports whether the part lies where calls end: on return probes, or on the return instructions of Go.
func (p *part) returns() bool { return p.atExit || strings.HasSuffix(p.program, "_exit") }

// placer puts programs into files.
type placer struct {
	programs   Programs
	slots      *slots
	cookieless atomic.Bool // perf events of this kernel have no attach cookies: Linux before 5.15
}

// put puts programs at places of an open file, in all processes or in one. On error nothing stays attached.
func (pl *placer) put(f target.File, plan []placement, only uint32) (parts []*part, err error) {
	what := "attach to " + f.Path
	if len(f.Sites) == 0 || f.Handle == nil {
		return nil, &target.Problem{What: what, Why: "no place for a probe was found in it", Remedy: "use another build of the file"}
	}
	multi := pl.programs.UprobeMulti()
	if !multi {
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
	defer func() {
		if err != nil {
			pl.remove(parts)
			parts = nil
		}
	}()
	for _, at := range plan {
		what := "attach " + at.symbols[0] + " to " + f.Path
		program := pl.programs.Program(at.program)
		if at.role == check && (program == nil || pl.slots == nil || pl.cookieless.Load()) {
			continue // what cannot be told apart cannot be verified: the sure places stay
		}
		if program == nil {
			return parts, &target.Problem{What: what, Why: "program " + at.program + " is not loaded", Remedy: "the agent and its programs are of different versions: reinstall it"}
		}
		p := &part{placement: at, slots: pl.slotsOf(f, at)}
		parts = append(parts, p)
		if err := pl.link(exe, program, p, only); err != nil {
			return parts, attempt{what, multi, only}.refused(err)
		}
	}
	return parts, nil
}

// slotsOf gives each offset the slot of its kind.
func (pl *placer) slotsOf(f target.File, at placement) []uint32 {
	numbers := make([]uint32, len(at.offsets))
	for i := range at.offsets {
		numbers[i] = pl.slots.take(Placed{ID: f.ID, Program: at.program, Class: at.classes[i], AtExit: at.atExit, Place: at.group.Offset})
	}
	return numbers
}

func (pl *placer) link(exe *link.Executable, program *ebpf.Program, p *part, only uint32) error {
	if pl.programs.UprobeMulti() {
		put := exe.UprobeMulti
		if p.atExit {
			put = exe.UretprobeMulti
		}
		cookies := make([]uint64, len(p.slots))
		for i, n := range p.slots {
			cookies[i] = uint64(n)
		}
		l, err := put(nil, program, &link.UprobeMultiOptions{Addresses: p.offsets, Cookies: cookies, PID: only})
		if err == nil {
			p.links = append(p.links, l)
		}
		return err
	}
	put := exe.Uprobe
	if p.atExit {
		put = exe.Uretprobe
	}
	for i, offset := range p.offsets {
		o := &link.UprobeOptions{Address: offset, PID: int(only), Cookie: uint64(p.slots[i])}
		if pl.cookieless.Load() {
			o.Cookie = 0
		}
		l, err := put("", program, o)
		if o.Cookie != 0 && errors.Is(err, link.ErrNotSupported) {
			pl.cookieless.Store(true)
			o.Cookie = 0
			l, err = put("", program, o)
		}
		if err != nil {
			return err
		}
		p.links = append(p.links, l)
	}
	return nil
}

// remove takes parts out, one after another, and gives their slots back.
func (pl *placer) remove(parts []*part) {
	for _, p := range parts {
		for _, l := range p.links {
			// A close of a descriptor that we own can only fail after it took effect.
			_ = l.Close()
		}
		pl.slots.give(p.slots)
	}
}
