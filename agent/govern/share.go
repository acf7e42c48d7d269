package govern

import (
	"math"
	"time"
)

// What a chunk costs the agent, in nanoseconds: BenchmarkPipeline takes some 20 us for a call of four chunks, and reading
// bytes about 2 ns each. Only their ratio matters here.
const (
	eventCost = 5000
	byteCost  = 2
)

// maxShares bounds the cgroups that are told apart; those that did least are forgotten.
const maxShares = 4096

// Share is what came of one cgroup since the last sample, and what the kernel dropped of it for lack of room.
type Share struct {
	Cgroup uint64
	Events uint64
	Bytes  uint64
}

// shares is the work that cgroups made of late: each second counts for a tenth less than the next.
type shares struct {
	by    map[uint64]float64
	total float64
}

func (s *shares) add(list []Share, elapsed time.Duration) {
	keep := math.Pow(0.9, elapsed.Seconds())
	s.total = 0
	for cgroup, cost := range s.by {
		if cost *= keep; cost < eventCost/10 {
			delete(s.by, cgroup)
			continue
		}
		s.by[cgroup] = cost
		s.total += cost
	}
	for _, l := range list {
		cost := float64(l.Events)*eventCost + float64(l.Bytes)*byteCost
		s.total += cost
		if _, known := s.by[l.Cgroup]; !known && len(s.by) >= maxShares {
			s.dropLeast()
		}
		s.by[l.Cgroup] += cost
	}
}

func (s *shares) dropLeast() {
	var least uint64
	cost := math.Inf(1)
	for cgroup, c := range s.by {
		if c < cost || c == cost && cgroup < least {
			least, cost = cgroup, c
		}
	}
	delete(s.by, least)
}

// cores is about what the agent spends on what arrives: the sum of weights that fall by a tenth each second is ten times
// what comes in one.
func (s *shares) cores() float64 { return s.total / 10 / 1e9 }

// busiest is the cgroup that makes more than half of the work; 0 where there is none.
func (s *shares) busiest() uint64 {
	for cgroup, cost := range s.by {
		if cost > s.total/2 {
			return cgroup
		}
	}
	return 0
}
