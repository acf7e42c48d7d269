// Package gate tries out what could harm a program, on a program of its own, before the agent attaches to anybody's.
//
// Two gates and a measurement, in this order:
//
//	                    agent                                  child: the same executable, no GC, no preemption
//	                      │ ────────── start ──────────────────▶ │
//	                      │ ◀───────── ready ─────────────────── │
//	cost of a hit         │ probes on two functions of the child │
//	                      │ ────────── run one, N times ───────▶ │
//	                      │ ◀───────── how long that took ────── │
//	uretprobe_seccomp     │ ────────── filter ─────────────────▶ │ from here on seccomp kills the system calls of probes
//	                      │ ────────── run ────────────────────▶ │
//	                      │ ◀───────── it lived, or SIGSYS ───── │
//	preempt               asks the kernel's types and its version
//
// uretprobe_seccomp: from Linux 6.11 on a function with a return probe returns through a system call of its own
// (x86-64: 335). A program whose seccomp filter does not know that number is killed by it. Linux 6.14, 6.13.3 and 6.12.14
// let the call pass. Distributions patch, so the deed decides: where the child dies, there are no return probes.
//
// preempt: uprobe programs can be preempted, and from Linux 6.13 on the stack of a program may be one for each processor:
// a second thread in the same program would write over the first one's. Our programs hold the processor by
// bpf_preempt_disable (bpf/preempt.h). A preemptible kernel from 6.13 on without it gets no uprobes at all.
//
// A gate that could not be tried is Unknown: it stops nothing, and says so. The probes carry the child's number, so that
// nothing else on the host meets them, and are gone when Test returns. A return probe is dangerous to Go's runtime, which
// does not know the address it returns to: hence the child, its leaf functions in assembly, and no preemption there.
package gate

// State is how a gate ended.
type State string

const (
	Passed  State = "passed"
	Refused State = "refused"
	Unknown State = "unknown"
)

// Names of the gates.
const (
	UretprobeSeccomp = "uretprobe_seccomp" // refused: no return probes
	Preempt          = "preempt"           // refused: no uprobes
)

// Names lists the gates.
func Names() []string { return []string{UretprobeSeccomp, Preempt} }

// Result is one gate.
type Result struct {
	Name   string
	State  State
	Detail string // what was seen and what follows from it, for a person
	Remedy string // what to do about it; "" where it passed
}

// Costs are what one hit of a probe with a program that only counts costs the program that is hit, on this host.
type Costs struct {
	EmulatedNs   float64 // at an instruction that the kernel emulates
	SingleStepNs float64 // at any other
	ReturnNs     float64 // of a return probe, on top of what the entry of the function costs
	Measured     bool    // false: typical values, since nothing could be measured
}

// Typical is what stands for a measurement: medians of a virtual machine with Linux 6.18 on an AMD EPYC.
func Typical() Costs { return Costs{EmulatedNs: 1200, SingleStepNs: 6200, ReturnNs: 900} }

// Ns is the cost of one hit.
func (c Costs) Ns(emulated, atExit bool) float64 {
	switch {
	case atExit:
		return c.ReturnNs
	case emulated:
		return c.EmulatedNs
	}
	return c.SingleStepNs
}
