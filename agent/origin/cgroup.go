package origin

import (
	"strings"
)

// Placement is what a cgroup path says about where a process runs. Empty fields are unknown or do not apply.
type Placement struct {
	Container string // container.id
	PodUID    string // k8s.pod.uid; of a static pod, the hash of its manifest
	unified   bool   // the v2 line said so, so every process of that cgroup v2 id is placed alike
}

// ParseCgroup reads /proc/PID/cgroup. Hybrid hosts print one line for each v1 hierarchy and one for v2; the v2 line is
// taken where it names a container, else the v1 hierarchies that every runtime uses.
func ParseCgroup(text string) Placement {
	var best Placement
	bestRank := len(hierarchies()) + 2
	for line := range strings.Lines(text) {
		id, rest, ok1 := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, ok2 := strings.Cut(rest, ":")
		if !ok1 || !ok2 {
			continue
		}
		p := place(path)
		if p.Container == "" && p.PodUID == "" {
			continue
		}
		p.unified = id == "0"
		rank := rankOf(id, controllers)
		if p.Container == "" {
			rank += bestRank
		}
		if best == (Placement{}) || rank < bestRank {
			best, bestRank = p, rank
		}
	}
	return best
}

func hierarchies() []string { return []string{"memory", "cpu,cpuacct", "cpu", "pids", "name=systemd"} }

func rankOf(id, controllers string) int {
	if id == "0" {
		return 0
	}
	for i, name := range hierarchies() {
		if controllers == name {
			return i + 1
		}
	}
	return len(hierarchies()) + 1
}

// place reads one path. Inside a pod, the container is the one that Kubernetes knows: the first below the pod.
// Elsewhere it is the innermost (Docker in Docker).
func place(path string) Placement {
	var p Placement
	var named string // containers that go by a name (LXC)
	// systemd units of user-namespaced pods put slice, runtime and id in one segment, apart by ":".
	for _, segment := range strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == ':' }) {
		if uid := podUID(segment); uid != "" {
			// A cluster inside a pod: the inner one is the process's own.
			p.PodUID, p.Container = uid, ""
			continue
		}
		if id := containerID(segment); id != "" && (p.PodUID == "" || p.Container == "") {
			p.Container = id
		}
		if strings.HasPrefix(segment, "lxc.payload.") {
			named = strings.TrimPrefix(segment, "lxc.payload.")
		}
	}
	if p.Container == "" && named == "" {
		named = lxcName(path)
	}
	if p.Container == "" {
		p.Container = named
	}
	return p
}

// lxcName reads the older spellings /lxc/NAME and /lxc.payload/NAME.
func lxcName(path string) string {
	for _, parent := range []string{"/lxc/", "/lxc.payload/"} {
		if _, rest, ok := strings.Cut(path, parent); ok {
			name, _, _ := strings.Cut(rest, "/")
			return name
		}
	}
	return ""
}

// runtimes are how runtimes begin the name of a container's scope. A runtime's own helper (conmon) lies beside the
// container and is not in it: its name has one more word, so what follows is no id.
func runtimes() []string {
	return []string{"cri-containerd-", "crio-", "docker-", "libpod-", "nerdctl-", "containerd-", "isulad-"}
}

func containerID(segment string) string {
	segment = strings.TrimSuffix(segment, ".scope")
	for _, prefix := range runtimes() {
		if rest, ok := strings.CutPrefix(segment, prefix); ok {
			segment = rest
			break
		}
	}
	if isHex(segment) && len(segment) == 64 {
		return segment
	}
	// AWS Fargate: the task's id and a number.
	if task, number, ok := strings.Cut(segment, "-"); ok && len(task) == 32 && isHex(task) && len(number) >= 8 && isDecimal(number) {
		return segment
	}
	return ""
}

// podUID reads "pod<uid>" (cgroupfs driver) and "...-pod<uid>.slice" (systemd driver, which writes _ for -).
func podUID(segment string) string {
	uid, ok := strings.CutPrefix(segment, "pod")
	if !ok {
		i := strings.LastIndex(segment, "-pod")
		if i < 0 {
			return ""
		}
		uid = segment[i+len("-pod"):]
	}
	uid = strings.ReplaceAll(strings.TrimSuffix(uid, ".slice"), "_", "-")
	plain := strings.ReplaceAll(uid, "-", "")
	if len(plain) != 32 || !isHex(plain) {
		return ""
	}
	if len(uid) == 32 || len(uid) == 36 && uid[8] == '-' && uid[13] == '-' && uid[18] == '-' && uid[23] == '-' {
		return uid
	}
	return ""
}

func isHex(s string) bool { return s != "" && strings.Trim(s, "0123456789abcdef") == "" }

func isDecimal(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
