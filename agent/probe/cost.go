package probe

import (
	"cmp"
	"slices"
	"time"

	"github.com/spile/spile/agent/target"
)

// kind is what decides the cost of a hit.
type kind struct {
	class  target.Class
	atExit bool
}

// account is what the probes of one file did, over all its attachments.
type account struct {
	hits  uint64
	due   map[kind]uint64 // hits that were not priced yet
	nanos float64
}

func (a *account) add(k kind, hits uint64) {
	a.hits += hits
	a.due[k] += hits
}

// maxAccounts bounds the memory of what files did that are no more. It is twice as many as can be attached.
const maxAccounts = 2 * maxFiles

// account finds or opens the account of a file. The caller holds the lock.
func (s *slots) account(p Placed) *account {
	a := s.accounts[p.ID]
	if a == nil {
		if len(s.accounts) >= maxAccounts {
			s.forgetAccounts()
		}
		a = &account{due: map[kind]uint64{}}
		s.accounts[p.ID] = a
	}
	return a
}

// forgetAccounts drops the accounts of files that have no slots.
func (s *slots) forgetAccounts() {
	used := make(map[target.Identity]bool, len(s.of))
	for p := range s.of {
		used[p.ID] = true
	}
	for id := range s.accounts {
		if !used[id] {
			delete(s.accounts, id)
		}
	}
}

// figures are the sums of a file.
func (s *slots) figures(id target.Identity) (hits uint64, cost time.Duration) {
	if s == nil {
		return 0, 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[id]
	if a == nil {
		return 0, 0
	}
	return a.hits, time.Duration(a.nanos)
}

// Cost is what the probes of one file did since the agent began, over all its attachments.
type Cost struct {
	ID   target.Identity
	Hits uint64
	Cost time.Duration // an estimate: hits times the cost of one
}

// Costs reads the hits and adds what they cost: ns is the cost of one hit, in nanoseconds, of a probe at an instruction of
// a class, or of a return. Each hit is priced once, by what a hit costs when it is read. The dearest file comes first.
func (r *Registry) Costs(ns func(class target.Class, atExit bool) float64) ([]Cost, error) {
	s := r.slots
	if s == nil {
		return nil, nil
	}
	if err := s.count(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Cost, 0, len(s.accounts))
	for id, a := range s.accounts {
		for k, n := range a.due {
			a.nanos += float64(n) * ns(k.class, k.atExit)
		}
		clear(a.due)
		list = append(list, Cost{id, a.hits, time.Duration(a.nanos)})
	}
	slices.SortFunc(list, func(a, b Cost) int {
		return cmp.Or(cmp.Compare(b.Cost, a.Cost), cmp.Compare(b.Hits, a.Hits), cmp.Compare(a.ID.Ino, b.ID.Ino), cmp.Compare(a.ID.Dev, b.ID.Dev))
	})
	return list, nil
}

// Slot says which file a slot stands for, or stood for last: a crash names the slot of the call that it came in.
func (r *Registry) Slot(n uint32) (Placed, bool) { return r.slots.placed(n) }
