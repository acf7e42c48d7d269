package origin

import (
	"sync"
	"time"

	"github.com/spile/spile/agent/chunk"
	spilev1 "github.com/spile/spile/proto/spile/v1"
)

// Process is who is at an end of a connection. Empty fields are unknown.
type Process struct {
	Name      string // process.name: the executable's file name
	PID       uint32
	BuildID   string // GNU build id of the executable, hex
	Container string // container.id
	PodUID    string // k8s.pod.uid
}

// Fill writes what is known into a peer.
func (p Process) Fill(peer *spilev1.Peer) {
	peer.Process, peer.Pid, peer.BuildId = p.Name, p.PID, p.BuildID
	peer.Container, peer.PodUid = p.Container, p.PodUID
}

// Config is what a Cache works with.
type Config struct {
	Proc    string                  // where procfs is mounted
	BuildID func(pid uint32) string // reads the build id of a process's executable; nil = leave it out
	Keep    time.Duration           // how long a process is remembered after its end
	Max     int                     // processes that are remembered
}

// DefaultConfig remembers what a late question can be about.
func DefaultConfig() Config { return Config{Proc: "/proc", Keep: 5 * time.Minute, Max: 16384} }

type key struct {
	tgid  uint32
	start time.Duration
}

type version struct {
	since   time.Duration // since boot
	process Process
}

type record struct {
	versions []version
	used     time.Duration // of the last question or event
	ended    time.Duration // 0 = runs
}

// maxVersions bounds the images of one process; a shell that execs in a loop gets no further.
const maxVersions = 8

// maxCgroups bounds the memory of which cgroup is which container.
const maxCgroups = 8192

// Stats are counts since the start.
type Stats struct {
	Reads   uint64 // processes read from procfs
	Gone    uint64 // of these, gone before they could be read
	Evicted uint64 // processes forgotten because the cache was full
}

// Cache knows processes. It is safe for concurrent use.
type Cache struct {
	config Config

	mu      sync.Mutex
	records map[key]*record
	cgroups map[uint64]Placement // cgroup v2 id → placement
	now     time.Duration        // the latest time heard of, since boot
	swept   time.Duration
	stats   Stats
}

// New makes an empty Cache.
func New(c Config) *Cache {
	return &Cache{config: c, records: map[key]*record{}, cgroups: map[uint64]Placement{}}
}

// Lookup says who owned a stream at a time since boot.
func (c *Cache) Lookup(o chunk.Owner, at time.Duration) Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance(at)
	k := key{o.TGID, o.Start}
	r, ok := c.records[k]
	if !ok {
		r = c.learn(k, o.Cgroup, 0)
	}
	r.used = max(r.used, at)
	p, ok := r.at(at)
	if !ok {
		p.Name, p.BuildID = "", ""
	}
	if p.Name == "" {
		p.Name = printable(o.Comm)
	}
	p.PID = o.TGID
	if p.Container == "" && p.PodUID == "" {
		if place, ok := c.cgroups[o.Cgroup]; ok {
			p.Container, p.PodUID = place.Container, place.PodUID
		}
	}
	return p
}

// at finds the version that held at a time. Before the first one only the place is known, which exec does not change.
func (r *record) at(t time.Duration) (Process, bool) {
	for i := len(r.versions) - 1; i >= 0; i-- {
		if r.versions[i].since <= t {
			return r.versions[i].process, true
		}
	}
	if len(r.versions) == 0 {
		return Process{}, false
	}
	return r.versions[0].process, false
}

// Exec says that a process had a new image at a time since boot.
func (c *Cache) Exec(tgid uint32, start, at time.Duration, cgroup uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance(at)
	c.learn(key{tgid, start}, cgroup, at).used = at
}

// Exit says that a process ended at a time since boot.
func (c *Cache) Exit(tgid uint32, start, at time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance(at)
	if r, ok := c.records[key{tgid, start}]; ok {
		r.ended = max(at, 1)
	}
}

// Stats returns the counts.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// learn reads a process as it is now and dates that. The lock is held: two readers would learn the same.
func (c *Cache) learn(k key, cgroup uint64, since time.Duration) *record {
	r, ok := c.records[k]
	if !ok {
		c.makeRoom()
		r = &record{}
		c.records[k] = r
	}
	c.stats.Reads++
	p, place, err := c.read(k.tgid, k.start)
	if err != nil {
		c.stats.Gone++
		r.ended = max(c.now, 1)
		return r
	}
	if place.unified && cgroup != 0 {
		if len(c.cgroups) >= maxCgroups {
			clear(c.cgroups)
		}
		c.cgroups[cgroup] = place
	}
	if n := len(r.versions); n == 0 || r.versions[n-1].process != p {
		r.versions = append(r.versions, version{since, p})
		if len(r.versions) > maxVersions {
			r.versions = r.versions[1:]
		}
	}
	return r
}

// advance moves the clock of the data, and forgets what ended long enough ago.
func (c *Cache) advance(at time.Duration) {
	c.now = max(c.now, at)
	const sweepEvery = 10 * time.Second
	if c.now-c.swept < sweepEvery {
		return
	}
	c.swept = c.now
	for k, r := range c.records {
		if r.ended != 0 && c.now-max(r.ended, r.used) > c.config.Keep {
			delete(c.records, k)
		}
	}
}

// makeRoom forgets the process that was silent longest among a few: an exact order would cost more than it is worth.
func (c *Cache) makeRoom() {
	const sample = 64
	if len(c.records) < c.config.Max {
		return
	}
	var victim key
	var oldest *record
	n := 0
	for k, r := range c.records {
		if oldest == nil || r.ended != 0 && oldest.ended == 0 || (r.ended != 0) == (oldest.ended != 0) && r.used < oldest.used {
			victim, oldest = k, r
		}
		if n++; n >= sample {
			break
		}
	}
	delete(c.records, victim)
	c.stats.Evicted++
}
