package doctor

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	capabilities = "run as root, or give the container CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE (kernels before 6.6: CAP_SYS_ADMIN as well)"
	newerKernel  = "use Linux 5.8 or later built with CONFIG_BPF_SYSCALL and CONFIG_DEBUG_INFO_BTF; 6.6 or later for full service"
)

func (h Host) root() Check {
	caps, err := h.effective()
	if err != nil {
		return warn(fmt.Sprintf("the capabilities of this process cannot be read: %v", err), "mount procfs at /proc")
	}
	var lacking []string
	for _, c := range []struct {
		bit  uint
		name string
	}{{unix.CAP_BPF, "CAP_BPF"}, {unix.CAP_PERFMON, "CAP_PERFMON"}, {unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE"}} {
		if caps&(1<<c.bit) == 0 && (caps&(1<<unix.CAP_SYS_ADMIN) == 0 || c.bit == unix.CAP_SYS_PTRACE) {
			lacking = append(lacking, c.name)
		}
	}
	if len(lacking) > 0 {
		return fail(fmt.Sprintf("uid %d lacks %s", h.UID, strings.Join(lacking, ", ")), capabilities)
	}
	return good(fmt.Sprintf("uid %d with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE", h.UID))
}

func (h Host) effective() (uint64, error) {
	text, err := h.text(filepath.Join(h.Proc, "self/status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	return 0, errors.New("no CapEff line")
}

func (h Host) kernel() Check {
	release, err := h.text(filepath.Join(h.Proc, "sys/kernel/osrelease"))
	if err != nil {
		return warn("the kernel's release cannot be read", "mount procfs at /proc")
	}
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return warn("Linux "+release+" has a release that says no version", newerKernel)
	}
	at := func(ma, mi int) bool { return major > ma || major == ma && minor >= mi }
	switch {
	case !at(5, 8):
		return fail("Linux "+release+" is older than 5.8", newerKernel)
	case !at(6, 6):
		return warn("Linux "+release+" has no uprobe_multi: attaching and detaching are slow and need CAP_SYS_ADMIN", "use Linux 6.6 or later for full service")
	}
	return good("Linux " + release)
}

func (h Host) btf() Check {
	if _, err := h.text(filepath.Join(h.Sys, "kernel/btf/vmlinux")); missing(err) {
		return fail("the kernel brings no type information (BTF)", newerKernel)
	} else if err != nil {
		return fail(fmt.Sprintf("the kernel's type information cannot be read: %v", err), "mount sysfs at /sys, read-only is enough")
	}
	if err := haveBTF(); err != nil {
		return fail(fmt.Sprintf("the kernel's type information cannot be used: %v", err), newerKernel)
	}
	return good("the kernel describes its own types")
}

func (h Host) lockdown() Check {
	text, err := h.text(filepath.Join(h.Sys, "kernel/security/lockdown"))
	mode := "not shown"
	if _, rest, ok := strings.Cut(text, "["); err == nil && ok {
		mode, _, _ = strings.Cut(rest, "]")
	}
	if mode == "confidentiality" {
		return fail("lockdown=confidentiality: the kernel lets no program read its memory, so connections cannot be named",
			"boot with lockdown=integrity")
	}
	// securityfs is often hidden from containers; then the deed decides.
	if err := h.try(KernelRead); err != nil && h.try(LoadProgram) == nil {
		return fail("programs may not read kernel memory; this is what lockdown=confidentiality does", "boot with lockdown=integrity")
	}
	return good("lockdown: " + mode)
}

func (h Host) bpf() Check {
	if err := h.try(LoadProgram); err != nil {
		return fail("a BPF program cannot be loaded: "+short(err), capabilities)
	}
	return good("a program was loaded")
}

func (h Host) ringBuffer() Check {
	if err := h.try(RingBuffer); errors.Is(err, fs.ErrPermission) {
		return fail("a ring buffer cannot be created: "+short(err), capabilities+"; before Linux 5.11 also raise the locked-memory limit")
	} else if err != nil {
		return fail("a ring buffer cannot be created: "+short(err), newerKernel)
	}
	return good("a ring buffer was created")
}

func (h Host) tpBTF() Check {
	if err := h.try(TypedTrace); errors.Is(err, fs.ErrPermission) {
		return warn("tp_btf/sock_send_length is refused: "+short(err), capabilities)
	} else if err != nil {
		return warn("tp_btf/sock_send_length is not there; kprobes or syscall tracepoints take its place, which cost more",
			"use Linux 6.3 or later")
	}
	return good("tp_btf/sock_send_length can be used")
}

func (h Host) uprobeMulti() Check {
	multi := h.try(MultiUprobe)
	if multi == nil {
		return good("a uprobe_multi link was attached and detached")
	}
	perf := h.try(PerfUprobe)
	if perf == nil {
		return warn("no uprobe_multi ("+short(multi)+"); perf events take its place: attaching and detaching are slow",
			"use Linux 6.6 or later")
	}
	return fail("uprobes cannot be attached: "+short(perf), capabilities)
}

func (h Host) perfParanoid() Check {
	text, err := h.text(filepath.Join(h.Proc, "sys/kernel/perf_event_paranoid"))
	if err != nil {
		return good("not there; nothing is restricted by it")
	}
	level, err := strconv.Atoi(text)
	if err == nil && level > 2 && h.try(MultiUprobe) != nil {
		return warn(fmt.Sprintf("perf_event_paranoid is %d and this kernel needs perf events for uprobes", level),
			"give the agent CAP_SYS_ADMIN, or: sysctl kernel.perf_event_paranoid=2")
	}
	return good("perf_event_paranoid is " + text)
}

func (h Host) ptrace() Check {
	if err := h.try(ReadOthers); err != nil {
		return fail("the files of other processes cannot be opened: "+short(err),
			"give the agent CAP_SYS_PTRACE; in Kubernetes also hostPID: true")
	}
	if comm, err := h.text(filepath.Join(h.Proc, "2/comm")); err != nil || comm != "kthreadd" {
		return warn("only the processes of this container can be seen", "share the host's process ids: hostPID: true, or docker run --pid=host")
	}
	return good("the processes of the host can be seen and their files opened")
}

func (h Host) try(f Feature) error {
	if try, ok := h.Try[f]; ok {
		return try()
	}
	return fmt.Errorf("nobody knows how to %s", f)
}

// short keeps the first line: a verifier's log is for developers.
func short(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	line, _, _ = strings.Cut(line, " (MEMLOCK may be too low") // the library's guess at every refusal
	const most = 160
	return line[:min(len(line), most)]
}

// quietPlace is the file offset of this program's entry point.
func quietPlace() (uint64, error) {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return 0, fmt.Errorf("read this program: %w", err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && f.Entry >= p.Vaddr && f.Entry-p.Vaddr < p.Filesz {
			return f.Entry - p.Vaddr + p.Off, nil
		}
	}
	return 0, errors.New("read this program: its entry point is nowhere in the file")
}
