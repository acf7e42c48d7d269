package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Boot is one run of a guest.
type Boot struct {
	Kernel    Kernel
	Initramfs string        // path
	MemoryMiB int           // of the guest
	Limit     time.Duration // the guest is killed after it
}

// Result is what a guest left.
type Result struct {
	Console string
	RC      int // exit status of the script
	Took    time.Duration
}

// ErrPanic says that the guest's kernel died; under emulation that can be the emulator's fault, so a caller may try once more.
var ErrPanic = errors.New("the guest's kernel panicked")

// ErrNoVerdict says that the guest ended, or was killed at its limit, without the verdict line.
var ErrNoVerdict = errors.New("the guest printed no verdict")

var verdict = regexp.MustCompile(`(?m)^vmtest rc=(\d+)`)

// Run boots the guest and waits for its verdict. Emulation only: KVM inside a VM hangs on some hosts.
func (b Boot) Run(ctx context.Context) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, b.Limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
		"-m", strconv.Itoa(b.MemoryMiB), "-kernel", b.Kernel.Image, "-initrd", b.Initramfs,
		"-display", "none", "-nodefaults", "-no-reboot", "-monitor", "none", "-serial", "stdio", "-net", "none",
		"-append", "console=ttyS0 loglevel=3 panic=-1 mitigations=off nokaslr")
	var console bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &console
	began := time.Now()
	runErr := cmd.Run()
	res := Result{Console: strings.ReplaceAll(console.String(), "\r\n", "\n"), Took: time.Since(began)}
	if m := verdict.FindStringSubmatch(res.Console); m != nil {
		res.RC, _ = strconv.Atoi(m[1])
		return res, nil
	}
	if strings.Contains(res.Console, "Kernel panic") {
		return res, fmt.Errorf("boot %s: %w", b.Kernel.Version, ErrPanic)
	}
	return res, fmt.Errorf("boot %s: %w within %s (qemu: %v)", b.Kernel.Version, ErrNoVerdict, res.Took.Round(time.Second), runErr)
}
