package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spile/spile/agent/target"
)

// Verdict is how a check ended.
type Verdict string

const (
	OK   Verdict = "ok"
	Warn Verdict = "warn"
	Fail Verdict = "fail"
)

// Check is one question and its answer.
type Check struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail"`
	Remedy  string  `json:"remedy,omitempty"` // what to do; set unless OK
	Sites   []Site  `json:"sites,omitempty"`  // of the check of probe sites
}

// Host is where the answers come from. Tests put a made-up host in its place.
type Host struct {
	Proc string // where procfs is mounted
	Sys  string // where sysfs is mounted
	UID  int
	// Try does a thing for real; see Features.
	Try map[Feature]func() error
	// Libraries describes the TLS libraries that are installed.
	Libraries func() []target.File
	// InUse says which place of a function an agent uses, "" = nobody knows. It may be nil.
	InUse func(f target.File, s target.Site) string
}

// ThisHost is the machine that runs.
func ThisHost() Host {
	return Host{Proc: "/proc", Sys: "/sys", UID: os.Geteuid(), Try: Features(), Libraries: func() []target.File {
		return target.Installed(target.NewCache(target.DefaultBudget()), target.Libraries())
	}}
}

// patience bounds the whole examination. A check that has not answered by then says so.
const patience = 1800 * time.Millisecond

// Doctor examines the host. Checks come in a fixed order, one line each.
func Doctor(ctx context.Context, h Host) []Check {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	checks := []struct {
		name string
		ask  func(Host) Check
	}{
		{"root", Host.root},
		{"kernel", Host.kernel},
		{"btf", Host.btf},
		{"lockdown", Host.lockdown},
		{"bpf", Host.bpf},
		{"ring_buffer", Host.ringBuffer},
		{"tp_btf", Host.tpBTF},
		{"uprobe_multi", Host.uprobeMulti},
		{"perf_event_paranoid", Host.perfParanoid},
		{"ptrace", Host.ptrace},
		{"cgroup", Host.cgroup},
		{"memory", Host.memory},
		{"probe_sites", Host.probeSites},
	}
	list := make([]Check, 0, len(checks))
	for _, c := range checks {
		answer := make(chan Check, 1)
		go func() { answer <- c.ask(h) }()
		var got Check
		select {
		case got = <-answer:
		case <-ctx.Done():
			got = warn("no answer in time", "run doctor again when the machine is less busy")
		}
		got.Name = c.name
		list = append(list, got)
	}
	return list
}

// Healthy reports whether no check failed.
func Healthy(checks []Check) bool {
	for _, c := range checks {
		if c.Verdict == Fail {
			return false
		}
	}
	return true
}

func good(detail string) Check         { return Check{Verdict: OK, Detail: detail} }
func warn(detail, remedy string) Check { return Check{Verdict: Warn, Detail: detail, Remedy: remedy} }
func fail(detail, remedy string) Check { return Check{Verdict: Fail, Detail: detail, Remedy: remedy} }

func (h Host) text(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
