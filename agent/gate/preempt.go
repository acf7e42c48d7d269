package gate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// kernel is what decides about preemption.
type kernel struct {
	release, version string // uname -r, uname -v
	model            string // /sys/kernel/debug/sched/preempt: "none voluntary (full) lazy"; "" = not shown
	commandLine      string
	holds            bool  // bpf_preempt_disable is there
	types            error // why that is not known
}

func thisKernel(proc, sys string) (k kernel) {
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		k.release, k.version = unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Version[:])
	}
	// debugfs is seldom mounted in containers; then the rest decides.
	k.model, k.commandLine = text(filepath.Join(sys, "kernel/debug/sched/preempt")), text(filepath.Join(proc, "cmdline"))
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		k.types = err
		return k
	}
	var function *btf.Func
	err = spec.TypeByName("bpf_preempt_disable", &function)
	if k.holds = err == nil; err != nil && !errors.Is(err, btf.ErrNotFound) {
		k.types = err
	}
	return k
}

func text(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// preempt judges whether two threads in one program can meet on one stack.
func (k kernel) preempt() Result {
	r := Result{Name: Preempt, State: Passed}
	var major, minor int
	if n, _ := fmt.Sscanf(k.release, "%d.%d", &major, &minor); n != 2 {
		r.State, r.Detail = Unknown, fmt.Sprintf("kernel release %q says no version", k.release)
		r.Remedy = "if uprobes make programs crash, use a kernel with a plain release"
		return r
	}
	preemptible, how := k.preemptible()
	switch {
	case k.holds:
		r.Detail = "programs hold their processor (bpf_preempt_disable)"
	case major < 6 || major == 6 && minor < 13:
		r.Detail = "before Linux 6.13 each task has its own stack for programs"
	case !preemptible:
		r.Detail = "the kernel does not preempt: " + how
	case k.types != nil:
		r.State, r.Detail = Unknown, "the kernel's types cannot be read: "+k.types.Error()
		r.Remedy = "see the check btf of spile-agent doctor"
	default:
		r.State = Refused
		r.Detail = fmt.Sprintf("Linux %s can preempt programs (%s) and has no bpf_preempt_disable: two threads in one program may share "+
			"a stack and corrupt it, so no TLS library is probed", k.release, how)
		r.Remedy = "use a kernel that offers bpf_preempt_disable (6.10 or later, built with kfuncs), or boot with preempt=none"
	}
	return r
}

// preemptible says whether the kernel interrupts its own code, and how that is known.
func (k kernel) preemptible() (bool, string) {
	if _, rest, ok := strings.Cut(k.model, "("); ok {
		model, _, _ := strings.Cut(rest, ")")
		return model == "full" || model == "lazy", "preempt=" + model
	}
	if !strings.Contains(k.version, "PREEMPT") {
		return false, "built without preemption"
	}
	if !strings.Contains(k.version, "PREEMPT_DYNAMIC") {
		return true, "built with preemption"
	}
	model := ""
	for _, word := range strings.Fields(k.commandLine) {
		if value, ok := strings.CutPrefix(word, "preempt="); ok {
			model = value // the last one counts
		}
	}
	switch model {
	case "none", "voluntary":
		return false, "booted with preempt=" + model
	case "":
		return true, "PREEMPT_DYNAMIC, and the mode is not shown"
	}
	return true, "booted with preempt=" + model
}
