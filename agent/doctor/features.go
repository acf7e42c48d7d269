package doctor

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Feature is something that the kernel is asked to do.
type Feature string

const (
	LoadProgram Feature = "load a program"
	RingBuffer  Feature = "create a ring buffer"
	KernelRead  Feature = "read kernel memory"
	TypedTrace  Feature = "load a program on tp_btf/sock_send_length"
	MultiUprobe Feature = "attach a uprobe_multi link"
	PerfUprobe  Feature = "attach a uprobe through a perf event"
	ReadOthers  Feature = "look into another process"
)

// Features is the table of how each is tried.
func Features() map[Feature]func() error {
	return map[Feature]func() error{
		LoadProgram: func() error { return load(ebpf.ProgramSpec{Type: ebpf.Kprobe, Instructions: nothing()}) },
		RingBuffer:  ringBuffer,
		KernelRead:  func() error { return load(ebpf.ProgramSpec{Type: ebpf.Kprobe, Instructions: kernelRead()}) },
		TypedTrace: func() error {
			return load(ebpf.ProgramSpec{
				Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sock_send_length", Instructions: nothing(),
			})
		},
		MultiUprobe: func() error { return uprobe(true) },
		PerfUprobe:  func() error { return uprobe(false) },
		ReadOthers:  readOthers,
	}
}

func nothing() asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}
}

// kernelRead calls the helper that lockdown=confidentiality takes away.
func kernelRead() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R0, 0),
		asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, -8),
		asm.Mov.Imm(asm.R2, 8),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnProbeReadKernel.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	}
}

func load(spec ebpf.ProgramSpec) error {
	spec.License = "GPL"
	p, err := ebpf.NewProgram(&spec)
	if err != nil {
		return err
	}
	return p.Close()
}

func ringBuffer() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())})
	if err != nil {
		return err
	}
	return m.Close()
}

// uprobe attaches to this program's entry point, which ran once, before main.
func uprobe(multi bool) error {
	spec := ebpf.ProgramSpec{Type: ebpf.Kprobe, License: "GPL", Instructions: nothing()}
	if multi {
		spec.AttachType = ebpf.AttachTraceUprobeMulti
	}
	p, err := ebpf.NewProgram(&spec)
	if err != nil {
		return err
	}
	defer p.Close()
	exe, err := link.OpenExecutable("/proc/self/exe")
	if err != nil {
		return err
	}
	offset, err := quietPlace()
	if err != nil {
		return err
	}
	var l link.Link
	if multi {
		l, err = exe.UprobeMulti(nil, p, &link.UprobeMultiOptions{Addresses: []uint64{offset}})
	} else {
		if _, err := os.Stat("/sys/bus/event_source/devices/uprobe/type"); err != nil {
			return fmt.Errorf("the kernel has no uprobe events: %w", err)
		}
		l, err = exe.Uprobe("", p, &link.UprobeOptions{Address: offset})
	}
	if err != nil {
		return err
	}
	return l.Close()
}

// readOthers opens what discovery opens: the root of a process that is not ours. Kernel threads have every
// capability, so only CAP_SYS_PTRACE opens theirs; and unlike process 1 nobody hides them.
func readOthers() error {
	pid := "1"
	if comm, err := os.ReadFile("/proc/2/comm"); err == nil && string(comm) == "kthreadd\n" {
		pid = "2"
	}
	f, err := os.OpenFile("/proc/"+pid+"/root", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func haveBTF() error {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return err
	}
	var s *btf.Struct
	if err := spec.TypeByName("sock", &s); err != nil {
		return errors.Join(errors.New("the kernel's types do not describe struct sock"), err)
	}
	return nil
}
