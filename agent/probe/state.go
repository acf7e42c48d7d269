package probe

import (
	"log/slog"
	"time"

	"github.com/cilium/ebpf"

	"github.com/spile/spile/agent/target"
)

// Phase is where a file is in its life.
type Phase string

const (
	Attaching Phase = "attaching"
	Canary    Phase = "canary" // attached in one process, to see that it does no harm there
	Attached  Phase = "attached"
	Failed    Phase = "failed"
	Draining  Phase = "draining"
	Suspended Phase = "suspended" // for a while, because of what it costs
	Denied    Phase = "denied"    // for good, because of what it did
)

// State is one file, for health reports.
type State struct {
	ID      target.Identity
	Only    uint32 // the one process that is probed; 0 = every process that maps the file
	Library string
	Path    string
	BuildID string
	Phase   Phase
	// Reason is why it is not attached, or not everywhere, and what to do. Of a file that is attached it says that no call
	// has shown yet how its build bears probes. "" otherwise.
	Reason    string
	Processes int // that map it now
	// Sites says where its probes lie: "SSL_read: entry, single_step".
	Sites []string
	// Hits and Cost are of the file since the agent began, over all its attachments; where several rows are of one file,
	// the first of them has them.
	Hits     uint64
	Cost     time.Duration
	Unleased string // why an attached file is only looked at now and then for writes; "" = a lease makes writers wait
}

// Times are how long things last.
type Times struct {
	Grace  time.Duration // from the last Drop to detaching
	Forget time.Duration // until a file that failed is tried again
	Retry  time.Duration // the same, where the host was only short of something
	// Written is the same where somebody was writing into the file; twice as long each time he still is, up to Retry.
	Written time.Duration
	Sweep   time.Duration // between two looks at what is over, and at what was written
	Check   time.Duration // between two looks at what is undecided: canaries and inner places
	Canary  time.Duration // that a new build is probed in one process only, at most; 0 = it is not
	Survive time.Duration // from its first hit until it counts as harmless
	Exits   time.Duration // that return probes stay where entry probes went, for the calls that were inside
}

// DefaultTimes keeps a library attached between two runs of a cron job or a rolling restart.
func DefaultTimes() Times {
	return Times{
		Grace: 30 * time.Second, Forget: 10 * time.Minute, Retry: 20 * time.Second, Written: time.Second, Sweep: time.Second,
		Check: 200 * time.Millisecond, Canary: time.Second, Survive: 10 * time.Second, Exits: 30 * time.Second,
	}
}

// Programs is where the programs come from: *bpf.Objects.
type Programs interface {
	Program(name string) *ebpf.Program
	// UprobeMulti reports whether the programs were loaded for uprobe_multi links (Linux 6.6).
	UprobeMulti() bool
}

// Counters are what the programs count by slot: *bpf.Objects.
type Counters interface {
	Hits(slots []uint32) ([]uint64, error)
	// SiteChecks says how often the program ssl_check saw the call that the probe around it saw, and how often another.
	SiteChecks(slots []uint32) (agree, disagree []uint64, err error)
	// ForgetCalls drops the calls that the probes of these slots saw begin.
	ForgetCalls(slots []uint32) error
}

// Config is what a Registry works with.
type Config struct {
	Programs Programs
	Counters Counters // nil = hits are not counted by file, and no inner place is verified
	DataDir  string   // keeps what was learned of builds, and which are denied; "" = in memory only
	Times    Times
	Log      *slog.Logger // nil = nobody reads it
}
