package bpf

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

const (
	// maxReturns is how many threads may be inside the function at once, the kernel's own limit
	// (KRETPROBE_MAXACTIVE_MAX). Its default, max(10, 2 * processors), is too few for a server with a thread for each
	// connection: all but those few that wait in recv would return unseen.
	maxReturns = 4096
	// returnsGroup begins the names of our events in tracefs.
	returnsGroup = "spile"
)

// attachKretprobe asks for room by tracefs, the only interface that takes the number. Without tracefs the default has
// to do. Returns that are missed all the same are counted by the programs.
func attachKretprobe(symbol string) attach {
	return func(p *ebpf.Program) (link.Link, error) {
		l, err := link.Kretprobe(symbol, p, &link.KprobeOptions{RetprobeMaxActive: maxReturns, TraceFSPrefix: returnsGroup})
		if err == nil {
			return l, nil
		}
		return link.Kretprobe(symbol, p, nil)
	}
}

// removeStaleReturns removes what an agent that was killed left in tracefs: unlike a perf event, a name there does not
// go with its process. Those in use are busy and stay.
func removeStaleReturns() {
	for _, dir := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		name := filepath.Join(dir, "kprobe_events")
		list, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for _, event := range staleReturns(string(list)) {
			// It may be in use, or gone.
			_ = appendLine(name, "-:"+event)
		}
		return
	}
}

// staleReturns finds our events, such as spile_1a2b/tcp_recvmsg, in a list like "r4096:spile_1a2b/tcp_recvmsg tcp_recvmsg".
func staleReturns(list string) (events []string) {
	for line := range strings.Lines(list) {
		_, rest, _ := strings.Cut(line, ":")
		event, _, _ := strings.Cut(rest, " ")
		if strings.HasPrefix(event, returnsGroup+"_") {
			events = append(events, strings.TrimSpace(event))
		}
	}
	return events
}

func appendLine(name, line string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(line + "\n")
	return err
}
