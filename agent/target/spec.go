package target

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrSpec says that a --target string cannot be understood.
var ErrSpec = errors.New("invalid target")

const specHelp = "use netns=PATH|self, cgroup=PATH, exe=GLOB, pid=N or port=N, with a leading ! to exclude"

// Terms are the values of one polarity, by kind.
type Terms struct {
	NetNS   []string
	Cgroups []string
	Exes    []string
	PIDs    []uint32
	Ports   []uint16
}

// Spec is what --target says, understood but not yet looked up.
//
// Values of one kind are alternatives, kinds restrict each other, and any matching exclusion wins.
// A Spec without included terms watches everything that is not excluded.
type Spec struct {
	Include Terms
	Exclude Terms
}

// ParseSpec reads the values of --target.
func ParseSpec(targets []string) (Spec, error) {
	var s Spec
	for _, text := range targets {
		rest, exclude := strings.CutPrefix(strings.TrimSpace(text), "!")
		terms := &s.Include
		if exclude {
			terms = &s.Exclude
		}
		kind, value, ok := strings.Cut(rest, "=")
		if !ok || value == "" {
			return Spec{}, fmt.Errorf("%w %q: a value is missing; %s", ErrSpec, text, specHelp)
		}
		if err := terms.add(kind, value); err != nil {
			return Spec{}, fmt.Errorf("%w %q: %w", ErrSpec, text, err)
		}
	}
	return s, nil
}

func (t *Terms) add(kind, value string) error {
	switch kind {
	case "netns":
		t.NetNS = append(t.NetNS, value)
	case "cgroup":
		t.Cgroups = append(t.Cgroups, value)
	case "exe":
		if _, err := filepath.Match(value, ""); err != nil {
			return fmt.Errorf("the pattern is malformed; close every [ and end no pattern with \\, for example exe=/usr/sbin/nginx or exe=python3*")
		}
		t.Exes = append(t.Exes, value)
	case "pid":
		pid, err := strconv.ParseUint(value, 10, 31)
		if err != nil || pid == 0 {
			return fmt.Errorf("%q is not a process id; give a number from 1, for example pid=4242", value)
		}
		t.PIDs = append(t.PIDs, uint32(pid))
	case "port":
		port, err := strconv.ParseUint(value, 10, 16)
		if err != nil || port == 0 {
			return fmt.Errorf("%q is not a port; give a number from 1 to 65535, for example port=8443", value)
		}
		t.Ports = append(t.Ports, uint16(port))
	default:
		return fmt.Errorf("unknown kind %q; %s", kind, specHelp)
	}
	return nil
}

func (t Terms) empty() bool {
	return len(t.NetNS)+len(t.Cgroups)+len(t.Exes)+len(t.PIDs)+len(t.Ports) == 0
}

// Everything reports whether the spec selects the whole host.
func (s Spec) Everything() bool { return s.Include.empty() && s.Exclude.empty() }
