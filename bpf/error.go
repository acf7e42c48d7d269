package bpf

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

var (
	// ErrOption is an option out of range.
	ErrOption = errors.New("option not usable")
	// ErrNoBTF is a kernel that does not describe its types.
	ErrNoBTF = errors.New("the kernel has no type information: /sys/kernel/btf/vmlinux is needed; run a kernel built with CONFIG_DEBUG_INFO_BTF, 5.8 or later")
	// ErrPermission is a refusal that more privilege would lift.
	ErrPermission = errors.New("not permitted")
	// ErrNoSocketHook is a kernel that takes none of the rungs.
	ErrNoSocketHook = errors.New("the kernel takes none of the hooks that see sockets")
)

// explain turns a refusal into what is missing and what to do.
func explain(err error) error {
	var verifier *ebpf.VerifierError
	if errors.Is(err, ErrOption) || errors.Is(err, ErrNoBTF) || errors.As(err, &verifier) {
		return err
	}
	if errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("the kernel has no memory for the ring and tables: make the ring smaller or raise the limit of the control group: %w", err)
	}
	if !errors.Is(err, os.ErrPermission) {
		return err
	}
	status, _ := os.ReadFile("/proc/self/status")
	lockdown, _ := os.ReadFile("/sys/kernel/security/lockdown")
	return fmt.Errorf("%w: %s: %w", ErrPermission, remedy(os.Geteuid(), string(status), string(lockdown)), err)
}

// remedy reads from /proc/self/status and the state of lockdown why the kernel refused.
func remedy(uid int, status, lockdown string) string {
	if strings.Contains(lockdown, "[confidentiality]") {
		return "kernel lockdown is in confidentiality mode, which forbids reading kernel memory; boot with lockdown=integrity"
	}
	missing := missingCapabilities(status)
	switch {
	case len(missing) == 0:
		return "all capabilities are there, so a security module, seccomp or a user namespace refuses; run on the host, or allow bpf(2) and perf_event_open(2)"
	case uid != 0:
		return "run as root, or with " + strings.Join(missing, ", ")
	}
	return "root without " + strings.Join(missing, ", ") + "; add what is missing (before Linux 6.6 also CAP_SYS_ADMIN)"
}

func missingCapabilities(status string) []string {
	var missing []string
	for line := range strings.Lines(status) {
		hex, found := strings.CutPrefix(line, "CapEff:")
		if !found {
			continue
		}
		effective, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err != nil {
			continue
		}
		for _, c := range []struct {
			name string
			bit  uint
		}{{"CAP_BPF", unix.CAP_BPF}, {"CAP_PERFMON", unix.CAP_PERFMON}, {"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE}} {
			// CAP_SYS_ADMIN stands for the first two, as before 5.8.
			admin := effective&(1<<unix.CAP_SYS_ADMIN) != 0 && c.bit != unix.CAP_SYS_PTRACE
			if effective&(1<<c.bit) == 0 && !admin {
				missing = append(missing, c.name)
			}
		}
	}
	return missing
}
