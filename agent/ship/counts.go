package ship

import (
	"maps"
	"slices"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// Counts is ship's account, in calls unless said otherwise.
type Counts struct {
	Added uint64
	// Recovered were in the spool when New opened it.
	Recovered uint64
	Queued    uint64
	Spooled   uint64
	Receipted uint64
	// Rejected were refused for good by the collector.
	Rejected uint64
	Dropped  map[string]uint64
	// Batches sealed by this run, and those whose Receipt has come.
	BatchesSealed    uint64
	BatchesReceipted uint64
	SpoolBytes       uint64
	// TornBytes were unreadable at start; how many calls they held is not known.
	TornBytes uint64
	Connected bool
}

// Counts is a snapshot; while calls are moving, its parts may be a moment apart.
func (s *Shipper) Counts() Counts {
	c := Counts{Dropped: map[string]uint64{}, Queued: uint64(s.outbox.len())}
	s.spool.counts(&c)
	s.mu.Lock()
	for reason, n := range s.dropped {
		c.Dropped[reason] += n
	}
	s.mu.Unlock()
	c.Added = s.added.Load()
	c.Connected = s.connected.Load()
	return c
}

// Proto is the form of Health, in a fixed order.
func (c Counts) Proto() []*v1.Count {
	count := func(name string, value uint64, lost bool) *v1.Count {
		return &v1.Count{Stage: "ship", Name: name, Value: value, Lost: lost}
	}
	list := []*v1.Count{
		count("added", c.Added, false),
		count("recovered", c.Recovered, false),
		count("queued", c.Queued, false),
		count("spooled", c.Spooled, false),
		count("receipted", c.Receipted, false),
		count("spool_bytes", c.SpoolBytes, false),
		count("batches_sealed", c.BatchesSealed, false),
		count("batches_receipted", c.BatchesReceipted, false),
		count("rejected", c.Rejected, true),
		count("spool_torn_bytes", c.TornBytes, true),
	}
	for _, reason := range slices.Sorted(maps.Keys(c.Dropped)) {
		list = append(list, count(reason, c.Dropped[reason], true))
	}
	return list
}
