package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
)

func TestThisHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	began := time.Now()
	checks := Doctor(context.Background(), ThisHost())
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %v, want less than 2 s", took)
	}
	for _, c := range checks {
		t.Logf("%-20s %-4s %s", c.Name, c.Verdict, c.Detail)
		if c.Name == "" || c.Detail == "" || (c.Verdict != OK) != (c.Remedy != "") {
			t.Errorf("incomplete: %+v", c)
		}
	}
	if !Healthy(checks) {
		t.Error("this host is where the agent is tested; no check may fail")
	}
}

// madeUp is a healthy modern host, to be spoilt.
func madeUp(t *testing.T) Host {
	t.Helper()
	dir := t.TempDir()
	h := Host{Proc: filepath.Join(dir, "proc"), Sys: filepath.Join(dir, "sys"), Try: map[Feature]func() error{}, Libraries: func() []target.File { return nil }}
	for f := range Features() {
		h.Try[f] = func() error { return nil }
	}
	put(t, h.Proc, "self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n")
	put(t, h.Proc, "sys/kernel/osrelease", "6.12.0-5-cloud\n")
	put(t, h.Proc, "sys/kernel/perf_event_paranoid", "2\n")
	put(t, h.Proc, "self/mountinfo", "26 23 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
	put(t, h.Proc, "self/cgroup", "0::/\n")
	put(t, h.Proc, "2/comm", "kthreadd\n")
	put(t, h.Proc, "meminfo", "MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\n")
	put(t, h.Sys, "kernel/btf/vmlinux", "x")
	put(t, h.Sys, "kernel/security/lockdown", "none [integrity] confidentiality\n")
	return h
}

func put(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSpoiltHosts(t *testing.T) {
	refused := func() error { return unix.EPERM }
	absent := func() error { return errors.New("not supported") }
	for name, tc := range map[string]struct {
		spoil  func(*testing.T, *Host)
		check  string
		want   Verdict
		says   string
		remedy string
	}{
		"healthy":         {func(*testing.T, *Host) {}, "kernel", OK, "6.12", ""},
		"no capabilities": {func(t *testing.T, h *Host) { put(t, h.Proc, "self/status", "CapEff:\t0000000000000000\n") }, "root", Fail, "CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE", "run as root"},
		"only sys_admin":  {func(t *testing.T, h *Host) { put(t, h.Proc, "self/status", "CapEff:\t0000000000200000\n") }, "root", Fail, "CAP_SYS_PTRACE", "run as root"},
		"three caps":      {func(t *testing.T, h *Host) { put(t, h.Proc, "self/status", "CapEff:\t000000c000080000\n") }, "root", OK, "", ""},
		"old kernel":      {func(t *testing.T, h *Host) { put(t, h.Proc, "sys/kernel/osrelease", "5.4.0-99-generic") }, "kernel", Fail, "older than 5.8", "5.8 or later"},
		"middling kernel": {func(t *testing.T, h *Host) { put(t, h.Proc, "sys/kernel/osrelease", "6.1.0-50-amd64") }, "kernel", Warn, "uprobe_multi", "6.6"},
		"odd kernel":      {func(t *testing.T, h *Host) { put(t, h.Proc, "sys/kernel/osrelease", "custom") }, "kernel", Warn, "custom", "Linux"},
		"no btf":          {func(t *testing.T, h *Host) { os.Remove(filepath.Join(h.Sys, "kernel/btf/vmlinux")) }, "btf", Fail, "BTF", "CONFIG_DEBUG_INFO_BTF"},
		"confidentiality": {func(t *testing.T, h *Host) {
			put(t, h.Sys, "kernel/security/lockdown", "none integrity [confidentiality]")
		}, "lockdown", Fail, "confidentiality", "integrity"},
		"hidden lockdown": {func(t *testing.T, h *Host) {
			os.RemoveAll(filepath.Join(h.Sys, "kernel/security"))
			h.Try[KernelRead] = refused
		}, "lockdown", Fail, "kernel memory", "integrity"},
		"no bpf":         {func(t *testing.T, h *Host) { h.Try[LoadProgram] = refused }, "bpf", Fail, "operation not permitted", "CAP_BPF"},
		"no ring buffer": {func(t *testing.T, h *Host) { h.Try[RingBuffer] = refused }, "ring_buffer", Fail, "ring buffer", "locked-memory"},
		"no typed trace": {func(t *testing.T, h *Host) { h.Try[TypedTrace] = absent }, "tp_btf", Warn, "kprobes", "6.3"},
		"perf only":      {func(t *testing.T, h *Host) { h.Try[MultiUprobe] = absent }, "uprobe_multi", Warn, "perf events", "6.6"},
		"no uprobes":     {func(t *testing.T, h *Host) { h.Try[MultiUprobe] = absent; h.Try[PerfUprobe] = refused }, "uprobe_multi", Fail, "uprobes", "CAP_SYS_ADMIN"},
		"paranoid": {func(t *testing.T, h *Host) {
			h.Try[MultiUprobe] = absent
			put(t, h.Proc, "sys/kernel/perf_event_paranoid", "4")
		}, "perf_event_paranoid", Warn, "4", "sysctl"},
		"paranoid, multi":  {func(t *testing.T, h *Host) { put(t, h.Proc, "sys/kernel/perf_event_paranoid", "4") }, "perf_event_paranoid", OK, "4", ""},
		"no ptrace":        {func(t *testing.T, h *Host) { h.Try[ReadOthers] = refused }, "ptrace", Fail, "other processes", "hostPID"},
		"own pids":         {func(t *testing.T, h *Host) { put(t, h.Proc, "2/comm", "sh\n") }, "ptrace", Warn, "this container", "hostPID"},
		"cgroup v1":        {func(t *testing.T, h *Host) { put(t, h.Proc, "self/mountinfo", "1 1 0:1 / /c rw - cgroup cgroup rw\n") }, "cgroup", Warn, "v1 only", "unified"},
		"little memory":    {func(t *testing.T, h *Host) { put(t, h.Proc, "meminfo", "MemAvailable: 90000 kB\n") }, "memory", Warn, "87 MiB", "256 MiB"},
		"little allowance": {func(t *testing.T, h *Host) { put(t, h.Sys, "fs/cgroup/memory.max", "67108864\n") }, "memory", Warn, "64 MiB", "256 MiB"},
		"slow": {func(t *testing.T, h *Host) {
			h.Try[ReadOthers] = func() error { time.Sleep(5 * time.Second); return nil }
		}, "ptrace", Warn, "no answer", "again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := madeUp(t)
			tc.spoil(t, &h)
			for _, c := range Doctor(context.Background(), h) {
				if c.Name != tc.check {
					continue
				}
				if c.Verdict != tc.want || !strings.Contains(c.Detail, tc.says) || !strings.Contains(c.Remedy, tc.remedy) {
					t.Errorf("got %+v, want %s saying %q with remedy %q", c, tc.want, tc.says, tc.remedy)
				}
				if strings.Contains(c.Detail+c.Remedy, "\n") {
					t.Errorf("more than one line: %+v", c)
				}
				return
			}
			t.Errorf("no check %s", tc.check)
		})
	}
}
