package bpf

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRemedy(t *testing.T) {
	full := "Name:\tx\nCapEff:\t000001ffffffffff\n"
	for _, c := range []struct{ name, status, lockdown, want string }{
		{"lockdown", full, "none integrity [confidentiality]", "lockdown"},
		{"user", "CapEff:\t0000000000000000\n", "", "run as root, or with CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE"},
		{"root without bpf", "CapEff:\t0000004000080000\n", "[none] integrity confidentiality", "root without CAP_BPF;"},
		{"admin stands for both", "CapEff:\t0000000000280000\n", "", "security module"},
		{"all there", full, "", "security module"},
		{"not readable", "", "", "security module"},
		{"nonsense", "CapEff:\tzz\n", "", "security module"},
	} {
		t.Run(c.name, func(t *testing.T) {
			uid := 0
			if c.name == "user" {
				uid = 1000
			}
			if got := remedy(uid, c.status, c.lockdown); !strings.Contains(got, c.want) {
				t.Errorf("%q does not say %q", got, c.want)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("load: %w", unix.EPERM), "not permitted: "},
		{fmt.Errorf("create map: %w", unix.ENOMEM), "make the ring smaller"},
		{fmt.Errorf("%w: %w", ErrNoBTF, unix.ENOENT), "CONFIG_DEBUG_INFO_BTF"},
	} {
		got := explain(c.err)
		if !strings.Contains(got.Error(), c.want) {
			t.Errorf("%q does not say %q", got, c.want)
		}
		if !errors.Is(got, errors.Unwrap(c.err)) && !errors.Is(got, c.err) {
			t.Errorf("%q hides its cause", got)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{RingBytes: 1000}, {RingBytes: 4096}, {RingBytes: 3 << 20}, {CaptureBytes: -1}, {CaptureBytes: 1 << 30},
		{Select: Selector{Include: Rules{CgroupFDs: make([]int, maxCgroups+1)}}},
	} {
		if err := o.fill(); !errors.Is(err, ErrOption) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	requireKernel(t)
	if _, err := Load(Options{SocketRung: "ladder"}); !errors.Is(err, ErrOption) {
		t.Errorf("an unknown rung: %v", err)
	}
}
