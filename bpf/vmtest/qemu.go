package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Emulator is a QEMU and what it must be told.
type Emulator struct {
	Version string // "10.0.2"
	program string
	args    []string // where an unpacked one has its firmware
}

func (e Emulator) String() string { return "qemu " + e.Version + " (" + e.program + ")" }

// reliableQEMU boots 6.12 each time (12 of 12); 7.2, which Debian 12 has, 14 times of 24: its emulated processor does not
// always see code that the kernel patched.
const reliableQEMU = 9

// Emulator is the machine's QEMU if it is recent enough, else the one of its release's backports, unpacked and not
// installed: it needs the libraries of the installed one.
func (a *Archive) Emulator(ctx context.Context) (Emulator, error) {
	own, err := emulator(ctx, "qemu-system-x86_64")
	if err != nil {
		return Emulator{}, fmt.Errorf("%w; install qemu-system-x86", err)
	}
	if numbersOf(own.Version)[0] >= reliableQEMU {
		return own, nil
	}
	suite := a.sources.own() + "-backports"
	name := "qemu-" + suite
	dir, err := a.unpack(ctx, suite, name, "qemu-system-x86/"+suite, "qemu-system-data/"+suite, "seabios/"+suite)
	if err == nil {
		share := filepath.Join(dir, "usr", "share")
		var newer Emulator
		newer, err = emulator(ctx, filepath.Join(dir, "usr/bin/qemu-system-x86_64"), "-L", filepath.Join(share, "seabios"), "-L", filepath.Join(share, "qemu"))
		if err == nil {
			return newer, nil
		}
	}
	a.log("EMULATOR: %s is used although Linux 6.12 boots on it only every other time: none of %s: %v", own, suite, err)
	return own, nil
}

var qemuVersion = regexp.MustCompile(`version ([0-9]+\.[0-9.]+)`)

func emulator(ctx context.Context, program string, args ...string) (Emulator, error) {
	out, err := exec.CommandContext(ctx, program, "--version").CombinedOutput()
	if err != nil {
		return Emulator{}, fmt.Errorf("run %s: %w: %s", program, err, bytes.TrimSpace(out))
	}
	m := qemuVersion.FindSubmatch(out)
	if m == nil {
		return Emulator{}, fmt.Errorf("run %s: no version in %q", program, out)
	}
	return Emulator{Version: string(m[1]), program: program, args: args}, nil
}

// Boot is one run of a guest.
type Boot struct {
	Emulator  Emulator
	Kernel    Kernel
	Initramfs string        // path
	MemoryMiB int           // of the guest
	Limit     time.Duration // the guest is killed after it
	Log       string        // file that gets the console as it comes; "" = none
}

// Result is what a guest left.
type Result struct {
	Console string
	RC      int // exit status of the script
	Took    time.Duration
}

// ErrPanic says that the guest's kernel died.
var ErrPanic = errors.New("the guest's kernel panicked")

// ErrNoVerdict says that the guest ended, or was killed at its limit, without the verdict line.
var ErrNoVerdict = errors.New("the guest printed no verdict")

// began is what the guest's init prints before anything of ours runs.
const began = "vmtest began"

var (
	verdict = regexp.MustCompile(`(?m)^vmtest rc=(\d+)`)
	oops    = regexp.MustCompile(`(?m)^.*(Kernel panic|Oops: |BUG: unable to handle|double fault).*$`)
	// Patched kernel text (static keys, trampolines) that one emulated processor still sees half written: no bug of the guest.
	torn = regexp.MustCompile(`(?m)^.*(int3: 0000|Oops: int3|double fault).*$`)
)

// Run boots the guest and waits for its verdict. Emulation only: KVM inside a VM hangs on some hosts.
func (b Boot) Run(ctx context.Context) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, b.Limit)
	defer cancel()
	args := append(b.Emulator.args, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
		"-m", strconv.Itoa(b.MemoryMiB), "-kernel", b.Kernel.Image, "-initrd", b.Initramfs,
		"-display", "none", "-nodefaults", "-no-reboot", "-monitor", "none", "-serial", "stdio", "-net", "none",
		"-append", "console=ttyS0 loglevel=3 panic=-1 mitigations=off nokaslr")
	cmd := exec.CommandContext(ctx, b.Emulator.program, args...)
	cmd.WaitDelay = 10 * time.Second
	var console bytes.Buffer
	var out io.Writer = &console
	if b.Log != "" {
		file, err := os.Create(b.Log)
		if err != nil {
			return Result{}, fmt.Errorf("boot %s: %w", b.Kernel.Version, err)
		}
		defer file.Close()
		out = io.MultiWriter(&console, file)
	}
	cmd.Stdout, cmd.Stderr = out, out
	start := time.Now()
	runErr := cmd.Run()
	res := Result{Console: strings.ReplaceAll(console.String(), "\r\n", "\n"), Took: time.Since(start)}
	if m := verdict.FindStringSubmatch(res.Console); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			return res, fmt.Errorf("boot %s: verdict %q: %w", b.Kernel.Version, m[0], err)
		}
		res.RC = n
		return res, nil
	}
	if line := oops.FindString(res.Console); line != "" {
		return res, fmt.Errorf("boot %s: %w: %s", b.Kernel.Version, ErrPanic, strings.TrimSpace(line))
	}
	return res, fmt.Errorf("boot %s: %w within %s (qemu: %v)", b.Kernel.Version, ErrNoVerdict, res.Took.Round(time.Second), runErr)
}

// Emulated reports whether a failed boot may be the emulator's fault, so that one more try is fair: the kernel died before
// anything of ours ran, or in the way in which kernels die on code they patch. A kernel that dies otherwise under our programs
// is a finding.
func (r Result) Emulated(err error) bool {
	if errors.Is(err, ErrPanic) {
		return !strings.Contains(r.Console, began) || torn.MatchString(r.Console)
	}
	return errors.Is(err, ErrNoVerdict) && !strings.Contains(r.Console, began)
}
