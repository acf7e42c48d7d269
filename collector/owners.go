package main

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/spile/spile/collector/detect"
	"github.com/spile/spile/collector/journal"
	"github.com/spile/spile/collector/owner"
	"github.com/spile/spile/collector/query"
	"github.com/spile/spile/collector/route"
	"github.com/spile/spile/proto/columns"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// maxFindings bounds the findings of one partition, and of one replay.
const maxFindings = 10_000

// feeds are what followers hang on to.
type feeds struct {
	calls   *query.Feed
	changes *query.Changes
}

// openOwners gives the partitions' owners their stages.
func openOwners(j *journal.Journal, f feeds, rulesSaid *detect.Counters, log *slog.Logger) (*owner.Owners, error) {
	rules, err := detect.Builtin()
	if err != nil {
		return nil, err
	}
	return owner.New(owner.Config{
		Journal: j,
		Decode:  decoder(),
		Route:   route.Template,
		Detector: func() (owner.Detector, error) {
			// Compiled rules are shared, findings are the partition's own.
			d, err := detect.New(rules, maxFindings)
			if err == nil {
				d.CountTo(rulesSaid)
			}
			return d, err
		},
		Live: func(partition int, seq uint64, calls []*v1.Call) {
			f.calls.Publish(query.Batch{Partition: uint32(partition), Seq: seq, Calls: calls})
		},
		Found: func(changed []*v1.Finding) { f.changes.Publish(changed...) },
		Warn:  func(partition int, err error) { log.Warn("partition", "number", partition, "error", err) },
	})
}

// decoder decodes for any number of goroutines; a columns.Decoder belongs to one at a time.
func decoder() func([]byte) ([]*v1.Call, error) {
	var pool sync.Pool
	return func(payload []byte) ([]*v1.Call, error) {
		d, ok := pool.Get().(*columns.Decoder)
		if !ok {
			var err error
			if d, err = columns.NewDecoder(); err != nil {
				return nil, err
			}
		}
		defer pool.Put(d)
		return d.Decode(payload)
	}
}

// errLoading says that what could be shown is not yet all there is.
var errLoading = errors.New("the inventory is still loading")

// loading tells why the inventory cannot be asked yet: half of it would look like all of it.
func (c *collector) loading() error {
	if n := c.owners.Loaded(); n < journal.Partitions {
		return fmt.Errorf("%w (%d of %d partitions)", errLoading, n, journal.Partitions)
	}
	return nil
}

// ownersCounts is the owners' part of a status.
func ownersCounts(s owner.Stats) []*v1.Count {
	count := func(name string, value uint64, lost bool) *v1.Count {
		return &v1.Count{Stage: "inventory", Name: name, Value: value, Lost: lost}
	}
	return []*v1.Count{
		count("records", s.Records, false), count("calls", s.Calls, false), count("duplicate_records", s.Duplicates, false),
		count("commits", s.Commits, false), count("restarts", s.Restarts, false), count("candidates", uint64(s.Candidates), false),
		count("stale_partitions", uint64(s.Stale), false), count("loading_partitions", uint64(s.Loading), false), count("late_records", s.Late, false), count("undecodable_records", s.Undecodable, false),
		count("calls_lost", s.LostCalls, true),
	}
}
