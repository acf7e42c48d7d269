package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Shed says what is not read, to save its cost. The zero value reads everything.
type Shed struct {
	Bodies    bool   // of HTTP/1 at most 4 KiB of a message are read, of HTTP/2 no DATA frame that fills its read or write
	Responses bool   // responses are told of (FLAG_SHED), not read
	OneIn     uint32 // of so many connections one is read; 0 and 1 = all. One that is not read stays so
}

// As in shed.h.
const (
	shedBodies    = 1
	shedResponses = 2
	briefMessage  = 4096
	maxSheds      = 4096

	policyShed  = 0
	policyMutes = 1
)

func (s Shed) wire() procShed {
	w := procShed{OneIn: s.OneIn}
	if s.Bodies {
		w.Flags |= shedBodies
	}
	if s.Responses {
		w.Flags |= shedResponses
	}
	return w
}

// SetShed replaces what each cgroup must do without; all is for those that are not named. It is in force for every stream
// from its next read or write. One goroutine calls it.
func (o *Objects) SetShed(all Shed, byCgroup map[uint64]Shed) error {
	if len(byCgroup) > maxSheds {
		return fmt.Errorf("%w: a policy names at most %d cgroups, not %d", ErrOption, maxSheds, len(byCgroup))
	}
	table := o.maps["sheds"]
	var old []uint64
	var cgroup uint64
	var was procShed
	entries := table.Iterate()
	for entries.Next(&cgroup, &was) {
		if _, stays := byCgroup[cgroup]; !stays {
			old = append(old, cgroup)
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read the policy: %w", err)
	}
	for _, cgroup := range old {
		if err := table.Delete(cgroup); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("take cgroup %d out of the policy: %w", cgroup, err)
		}
	}
	for cgroup, shed := range byCgroup {
		if err := table.Put(cgroup, shed.wire()); err != nil {
			return fmt.Errorf("put cgroup %d into the policy: %w", cgroup, err)
		}
	}
	o.policy++
	// The version comes last: who sees it finds the table as it is meant.
	if err := o.maps["policies"].Put(uint32(policyShed), procPolicy{All: all.wire(), Version: o.policy}); err != nil {
		return fmt.Errorf("set the policy: %w", err)
	}
	return nil
}
