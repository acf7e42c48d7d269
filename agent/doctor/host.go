package doctor

import (
	"bufio"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

func (h Host) cgroup() Check {
	text, err := h.text(filepath.Join(h.Proc, "self/mountinfo"))
	if err != nil {
		return warn("the mount table cannot be read", "mount procfs at /proc")
	}
	var v1, v2 bool
	for line := range strings.Lines(text) {
		_, after, _ := strings.Cut(line, " - ")
		v1 = v1 || strings.HasPrefix(after, "cgroup ")
		v2 = v2 || strings.HasPrefix(after, "cgroup2 ")
	}
	switch {
	case v1 && v2:
		return good("hybrid: containers are read from v1, --target cgroup= takes v2 paths")
	case v2:
		return good("v2")
	case v1:
		return warn("v1 only: --target cgroup= cannot be used", "boot with systemd.unified_cgroup_hierarchy=1, or select by netns, exe, pid or port")
	}
	return warn("no cgroup hierarchy is mounted here: --target cgroup= cannot be used", "mount one: mount -t cgroup2 none /sys/fs/cgroup")
}

// needBytes is what the agent takes with default limits: rings, maps, caches.
const needBytes = 256 << 20

func (h Host) memory() Check {
	available, err := h.available()
	if err != nil {
		return warn(fmt.Sprintf("free memory cannot be read: %v", err), "mount procfs at /proc")
	}
	if limit, path, ok := h.memoryLimit(); ok && limit < available {
		if limit < needBytes {
			return warn(fmt.Sprintf("the memory limit is %d MiB (%s)", limit>>20, path), "raise the limit to 256 MiB")
		}
		return good(fmt.Sprintf("limit %d MiB", limit>>20))
	}
	if available < needBytes {
		return warn(fmt.Sprintf("%d MiB are available", available>>20), "free memory until 256 MiB are available")
	}
	return good(fmt.Sprintf("%d MiB available", available>>20))
}

func (h Host) available() (uint64, error) {
	text, err := h.text(filepath.Join(h.Proc, "meminfo"))
	if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s/meminfo says no MemAvailable", h.Proc)
}

// memoryLimit reads the limit of our own cgroup, v2 or v1.
func (h Host) memoryLimit() (uint64, string, bool) {
	text, err := h.text(filepath.Join(h.Proc, "self/cgroup"))
	if err != nil {
		return 0, "", false
	}
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		var candidates []string
		switch {
		case fields[1] == "":
			candidates = []string{filepath.Join(h.Sys, "fs/cgroup", fields[2], "memory.max"), filepath.Join(h.Sys, "fs/cgroup/memory.max")}
		case fields[1] == "memory":
			candidates = []string{filepath.Join(h.Sys, "fs/cgroup/memory", fields[2], "memory.limit_in_bytes"), filepath.Join(h.Sys, "fs/cgroup/memory/memory.limit_in_bytes")}
		}
		for _, path := range candidates {
			if value, err := h.text(path); err == nil {
				if limit, err := strconv.ParseUint(value, 10, 64); err == nil && limit < 1<<60 {
					return limit, path, true
				}
				break
			}
		}
	}
	return 0, "", false
}
