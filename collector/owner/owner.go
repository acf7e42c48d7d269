package owner

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/spile/spile/collector/inventory"
	"github.com/spile/spile/collector/journal"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// FindingPrefix begins the keys of findings in the journal's state: "fi." and the finding's id. The value is a Finding.
const FindingPrefix = "fi"

// Detector makes findings of one partition's calls. One goroutine uses it.
type Detector interface {
	// Restore puts back what was stored, before the first call.
	Restore([]*v1.Finding) error
	// Begin says that a commit was made: what changes from now on is stored by the next one.
	Begin()
	// Observe returns the findings that a call made or changed. They are never changed afterwards.
	Observe(*v1.Call) []*v1.Finding
}

// Config is what main gives. Its functions are called from every partition's goroutine at once.
type Config struct {
	Journal *journal.Journal
	// Decode reads a record's payload.
	Decode func(payload []byte) ([]*v1.Call, error)
	// Route makes the template of a path.
	Route func(path string) string
	// Detector makes a detector for one partition. Nil finds nothing.
	Detector func() (Detector, error)
	// Limits of each partition's inventory.
	Limits inventory.Limits

	// Live hears of each batch of calls, with routes, before it is committed. It must not block nor change them.
	Live func(partition int, seq uint64, calls []*v1.Call)
	// Found hears of findings that were made or changed, after they are stored. It must not block.
	Found func([]*v1.Finding)
	// Warn hears what a person should know: a partition that stopped or started over, records that are gone.
	Warn func(partition int, err error)

	// Commits are this far apart (0 is 250 ms), nearer when many keys changed.
	Every time.Duration
}

const (
	defaultEvery = 250 * time.Millisecond
	// maxDirty keys changed make a commit due. One more call changes at most a few.
	maxDirty = 200
	// maxKeys is when it may not wait for the end of a record. Each key costs a sync: 10 ms and more on a busy disk.
	maxKeys     = 300
	idleEvery   = 10 * time.Minute
	finalCommit = 10 * time.Second
	firstRetry  = 250 * time.Millisecond
	lastRetry   = 30 * time.Second
)

// ErrAged says that records may have left the journal before they were read.
var ErrAged = errors.New("records may have aged out unread")

// ErrCut says that the journal lost records to damaged files.
var ErrCut = errors.New("the journal was cut off")

// Owners are all the partitions.
type Owners struct {
	cfg        Config
	partitions [journal.Partitions]*partition
}

// New prepares the owners; Run starts them.
func New(cfg Config) (*Owners, error) {
	if cfg.Journal == nil || cfg.Decode == nil || cfg.Route == nil {
		return nil, errors.New("make owners: journal, decode and route are needed")
	}
	cfg.Every = cmp.Or(cfg.Every, defaultEvery)
	if cfg.Limits == (inventory.Limits{}) {
		cfg.Limits = inventory.DefaultLimits()
	}
	if cfg.Live == nil {
		cfg.Live = func(int, uint64, []*v1.Call) {}
	}
	if cfg.Found == nil {
		cfg.Found = func([]*v1.Finding) {}
	}
	if cfg.Warn == nil {
		cfg.Warn = func(int, error) {}
	}
	o := &Owners{cfg: cfg}
	for n := range o.partitions {
		o.partitions[n] = newPartition(n, &o.cfg)
	}
	return o, nil
}

// Run works until ctx ends and every partition has committed what it read. A partition that is not its owner's any more stops
// alone; the others go on.
func (o *Owners) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, p := range o.partitions {
		wg.Go(func() { p.run(ctx) })
	}
	wg.Wait()
}

// Ready reports whether every partition has loaded its state: before, what is shown is not all there is.
func (o *Owners) Ready() bool {
	for _, p := range o.partitions {
		if p.status() != owning {
			return false
		}
	}
	return true
}

// Loaded counts the partitions that have loaded their state since the start. One that starts over after an error shows meanwhile
// what it knew, and one that another owner has shows nothing: neither is loading.
func (o *Owners) Loaded() int {
	n := 0
	for _, p := range o.partitions {
		if p.loaded.Load() {
			n++
		}
	}
	return n
}

// Services returns all services by name.
func (o *Owners) Services() []*v1.Service {
	var all []*v1.Service
	elsewhere := &v1.Service{Name: inventory.Elsewhere}
	for _, p := range o.partitions {
		for _, s := range p.view().Services() {
			if s.GetName() == inventory.Elsewhere {
				addTo(elsewhere, s)
			} else {
				all = append(all, s)
			}
		}
	}
	if elsewhere.Calls+elsewhere.ClientCalls > 0 {
		all = append(all, elsewhere)
	}
	slices.SortFunc(all, func(a, b *v1.Service) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return all
}

// addTo adds the overflow row of one partition to that of all.
func addTo(sum, s *v1.Service) {
	sum.Calls += s.GetCalls()
	sum.ClientCalls += s.GetClientCalls()
	sum.Unmatched += s.GetUnmatched()
	if sum.FirstSeen == nil || s.FirstSeen != nil && s.FirstSeen.AsTime().Before(sum.FirstSeen.AsTime()) {
		sum.FirstSeen = s.FirstSeen
	}
	if sum.LastSeen == nil || s.LastSeen != nil && s.LastSeen.AsTime().After(sum.LastSeen.AsTime()) {
		sum.LastSeen = s.LastSeen
	}
	for _, name := range s.GetProtocols() {
		if !slices.Contains(sum.Protocols, name) {
			sum.Protocols = append(sum.Protocols, name)
		}
	}
}

// Endpoints returns the endpoints of a service ("" is all), candidates too, by service, route and method.
func (o *Owners) Endpoints(service string) []*v1.Endpoint {
	var all []*v1.Endpoint
	for _, p := range o.partitions {
		all = append(all, p.view().Endpoints(service, true)...)
	}
	slices.SortFunc(all, func(a, b *v1.Endpoint) int {
		return cmp.Or(cmp.Compare(a.GetService(), b.GetService()), cmp.Compare(a.GetRoute(), b.GetRoute()), cmp.Compare(a.GetMethod(), b.GetMethod()))
	})
	return all
}

// Findings returns the stored findings by id.
func (o *Owners) Findings() []*v1.Finding {
	var all []*v1.Finding
	for _, p := range o.partitions {
		all = p.appendFindings(all)
	}
	slices.SortFunc(all, func(a, b *v1.Finding) int { return cmp.Compare(a.GetId(), b.GetId()) })
	return all
}

// Stats are counts since the start, and what is there now.
type Stats struct {
	// Records and Calls that were taken into account.
	Records, Calls uint64
	// Duplicates are records that came again and were left out.
	Duplicates uint64
	// Late and Undecodable records were left out, and LostCalls with them.
	Late, Undecodable, LostCalls uint64
	// Commits that were stored; Restarts of a partition after an error.
	Commits, Restarts uint64
	// Stale partitions belong to another owner now; Loading ones have never been loaded.
	Stale, Loading int
	// Lag is how many records were behind those last read.
	Lag uint64
	// Sizes of the inventory.
	Services, Endpoints, Candidates, Findings int
}

// Stats adds up the partitions.
func (o *Owners) Stats() Stats {
	var sum Stats
	for _, p := range o.partitions {
		p.addStats(&sum)
	}
	return sum
}
