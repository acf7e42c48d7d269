package target

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ErrDeny says that a --deny string cannot be understood.
var ErrDeny = errors.New("invalid entry of the denylist")

// Denylist names processes that no probe may be in.
type Denylist struct {
	exes    []string
	cgroups []string // as /proc/PID/cgroup spells them
	proc    string
}

// OpenDenylist reads the values of --deny. proc is where procfs is mounted. A cgroup need not be there yet: a service that
// starts later is denied from its start.
func OpenDenylist(values []string, proc string) (*Denylist, error) {
	d := &Denylist{proc: proc}
	for _, text := range values {
		kind, value, ok := strings.Cut(strings.TrimSpace(text), "=")
		if !ok || value == "" {
			return nil, fmt.Errorf("%w %q: a value is missing; use exe=GLOB or cgroup=PATH", ErrDeny, text)
		}
		switch kind {
		case "exe":
			if _, err := filepath.Match(value, ""); err != nil {
				return nil, fmt.Errorf("%w %q: the pattern is malformed; close every [ and end no pattern with \\, for example exe=/usr/sbin/nginx or exe=python3*", ErrDeny, text)
			}
			d.exes = append(d.exes, value)
			d.exes = append(d.exes, realPaths(value)...)
		case "cgroup":
			root, err := cgroup2Mount(proc)
			if err != nil {
				return nil, fmt.Errorf("%w %q: %w", ErrDeny, text, err)
			}
			if within(root, value) {
				value = strings.TrimPrefix(filepath.Clean(value), strings.TrimSuffix(root, "/"))
			}
			if value = filepath.Join("/", value); value == "/" {
				return nil, fmt.Errorf("%w %q: every process is in this cgroup; to probe nothing, stop the agent", ErrDeny, text)
			}
			d.cgroups = append(d.cgroups, value)
		default:
			return nil, fmt.Errorf("%w %q: unknown kind %q; use exe=GLOB or cgroup=PATH", ErrDeny, text, kind)
		}
	}
	return d, nil
}

// realPaths follows links: a process is known by the path in /proc/PID/exe, where /usr/bin/python3 is never seen. What it
// yields are patterns again.
func realPaths(pattern string) (real []string) {
	quote := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)
	for _, name := range globExes([]string{pattern}) {
		if to, err := filepath.EvalSymlinks(name); err == nil && to != name {
			real = append(real, quote.Replace(to))
		}
	}
	return real
}

// Empty reports whether nothing is denied.
func (d *Denylist) Empty() bool { return d == nil || len(d.exes)+len(d.cgroups) == 0 }

// Why says why no probe may be in a process; "" = it may. exe is the path of its program. A process whose cgroup cannot be
// told, because it is gone or hidden, is not on the list.
func (d *Denylist) Why(pid uint32, exe string) string {
	if d.Empty() {
		return ""
	}
	if exe != "" && anyMatch(d.exes, strings.TrimSuffix(exe, " (deleted)")) {
		return "its program is on the denylist (--deny exe)"
	}
	if len(d.cgroups) == 0 {
		return ""
	}
	text, err := os.ReadFile(procPath(d.proc, pid, "cgroup"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		own, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		for _, denied := range d.cgroups {
			if within(denied, own) {
				return "its cgroup is on the denylist (--deny cgroup)"
			}
		}
	}
	return ""
}
