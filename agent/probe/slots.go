package probe

import (
	"slices"
	"sync"

	"github.com/spile/spile/agent/target"
)

// lastSlot is the highest attach cookie that the programs count by. Slot 0 is for probes without one of their own.
const lastSlot = 8191

// Placed is what a slot stands for: a program at a kind of place in a file.
type Placed struct {
	ID      target.Identity
	Program string
	Class   target.Class
	AtExit  bool
	Place   uint64 // which of several places of one kind, where they must be told apart; else 0
}

// slots hands out attach cookies. All attachments of one file share the slots of one kind, so that a library which is
// attached to each of 500 processes on its own needs no more than one that is attached to all.
//
// A slot is freed when nothing uses it any more and its last hits were read, and is used again as late as possible: a
// program that crashed is asked about a moment after its file may have been detached.
type slots struct {
	counters Counters

	mu       sync.Mutex
	of       map[Placed]uint32
	entries  [lastSlot + 1]slot
	next     uint32
	free     int
	accounts map[target.Identity]*account
	waiting  []uint32 // unused, and their last hits not read
}

type slot struct {
	placed Placed
	users  int
	taken  bool
	read   uint64 // the kernel's count when it was last read
}

func newSlots(c Counters) *slots {
	if c == nil {
		return nil
	}
	return &slots{counters: c, of: map[Placed]uint32{}, free: lastSlot, accounts: map[target.Identity]*account{}}
}

// take gives the slot of a placement, 0 where there is none.
func (s *slots) take(p Placed) uint32 {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.of[p]; ok {
		s.entries[n].users++
		return n
	}
	if s.free == 0 {
		return 0
	}
	for {
		s.next = s.next%lastSlot + 1
		if !s.entries[s.next].taken {
			break
		}
	}
	e := &s.entries[s.next]
	*e = slot{placed: p, users: 1, taken: true, read: e.read}
	s.of[p] = s.next
	s.free--
	return s.next
}

// give takes slots back, of probes that are out.
func (s *slots) give(numbers []uint32) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range numbers {
		if n == 0 {
			continue
		}
		if s.entries[n].users--; s.entries[n].users == 0 && !slices.Contains(s.waiting, n) {
			s.waiting = append(s.waiting, n)
		}
	}
}

// forget drops the calls in which threads still are for the kernel, where a file has no probe left that would see them end:
// the sockets of such a thread would count as TLS's for good.
func (s *slots) forget(id target.Identity) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	var unused []uint32
	for n := range s.entries {
		if e := &s.entries[n]; n > 0 && e.users == 0 && e.placed.ID == id {
			unused = append(unused, uint32(n))
		}
	}
	s.mu.Unlock()
	if len(unused) == 0 {
		return nil
	}
	return s.counters.ForgetCalls(unused)
}

// count reads the hits of the slots that are in use into the accounts of their files, and frees the others.
func (s *slots) count() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	numbers := make([]uint32, 0, len(s.of))
	for _, n := range s.of {
		numbers = append(numbers, n)
	}
	unused := s.waiting
	s.waiting = nil
	s.mu.Unlock()
	hits, err := s.counters.Hits(numbers)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.waiting = append(s.waiting, unused...)
		return err
	}
	for i, n := range numbers {
		e := &s.entries[n]
		if hits[i] > e.read { // another reader may have been faster
			s.account(e.placed).add(kind{e.placed.Class, e.placed.AtExit}, hits[i]-e.read)
			e.read = hits[i]
		}
	}
	for _, n := range unused {
		if e := &s.entries[n]; e.users == 0 && e.taken {
			delete(s.of, e.placed)
			e.taken = false
			s.free++
		}
	}
	return nil
}

// hasUnused reports whether slots wait to be freed.
func (s *slots) hasUnused() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting) > 0
}

// placed says what a slot stands for, or stood for last.
func (s *slots) placed(n uint32) (Placed, bool) {
	if s == nil || n == 0 || n > lastSlot {
		return Placed{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.entries[n].placed
	return p, p.Program != ""
}

// checks reads how often an inner place agreed with the calls around it.
func (s *slots) checks(n uint32) (agree, disagree uint64, err error) {
	a, d, err := s.counters.SiteChecks([]uint32{n})
	if err != nil {
		return 0, 0, err
	}
	return a[0], d[0], nil
}
