package gate

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

// probes are the two programs that only count, and where they are.
type probes struct {
	multi       bool // by uprobe_multi; otherwise by perf events
	counts      *ebpf.Map
	enter, exit *ebpf.Program
	links       []link.Link
}

func newProbes() (_ *probes, err error) {
	p := &probes{multi: features.HaveBPFLinkUprobeMulti() == nil}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	// The library would fall back to tracefs, where probes outlive a killed agent.
	if _, err := os.Stat("/sys/bus/event_source/devices/uprobe/type"); !p.multi && err != nil {
		return nil, fmt.Errorf("the kernel has no uprobe events: %w", err)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	if p.counts, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 2}); err != nil {
		return nil, fmt.Errorf("create a map: %w", err)
	}
	if p.enter, err = p.counter(0); err != nil {
		return nil, err
	}
	p.exit, err = p.counter(1)
	return p, err
}

// counter is a program that adds one to a count.
func (p *probes) counter(index int32) (*ebpf.Program, error) {
	spec := ebpf.ProgramSpec{Type: ebpf.Kprobe, License: "GPL", Instructions: asm.Instructions{
		asm.StoreImm(asm.RFP, -4, int64(index), asm.Word),
		asm.LoadMapPtr(asm.R1, p.counts.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("end"),
		asm.Return(),
	}}
	if p.multi {
		spec.AttachType = ebpf.AttachTraceUprobeMulti
	}
	program, err := ebpf.NewProgram(&spec)
	if err != nil {
		return nil, fmt.Errorf("load a program that counts: %w", err)
	}
	return program, nil
}

// attach puts the programs on this executable's code in one process.
func (p *probes) attach(atExit bool, pid int, offsets ...uint64) error {
	exe, err := link.OpenExecutable("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("open this program: %w", err)
	}
	program, multi, single := p.enter, exe.UprobeMulti, exe.Uprobe
	if atExit {
		program, multi, single = p.exit, exe.UretprobeMulti, exe.Uretprobe
	}
	if p.multi {
		l, err := multi(nil, program, &link.UprobeMultiOptions{Addresses: offsets, PID: uint32(pid)})
		if err != nil {
			return fmt.Errorf("attach to a test program: %w", err)
		}
		p.links = append(p.links, l)
		return nil
	}
	for _, offset := range offsets {
		l, err := single("", program, &link.UprobeOptions{Address: offset, PID: pid})
		if err != nil {
			return fmt.Errorf("attach to a test program: %w", err)
		}
		p.links = append(p.links, l)
	}
	return nil
}

// hits says how often each of the programs ran.
func (p *probes) hits() (entries, returns uint64, err error) {
	err = errors.Join(p.counts.Lookup(uint32(0), &entries), p.counts.Lookup(uint32(1), &returns))
	if err != nil {
		return 0, 0, fmt.Errorf("read the counts: %w", err)
	}
	return entries, returns, nil
}

// detach takes the probes out. A return that is under way still finds its way.
func (p *probes) detach() {
	for _, l := range p.links {
		_ = l.Close() // closing a descriptor of ours fails only after it took effect
	}
	p.links = nil
}

func (p *probes) close() {
	p.detach()
	if p.enter != nil {
		p.enter.Close()
	}
	if p.exit != nil {
		p.exit.Close()
	}
	if p.counts != nil {
		p.counts.Close()
	}
}
