package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// CgroupLoss is what one cgroup lost for one reason. The losses of all cgroups together are the counters of that name.
type CgroupLoss struct {
	Cgroup uint64 // cgroup v2 id; 0 = those without room in the kernel's table
	Reason string // "ring_full", "budget", "pressure" or "sampled" (on purpose: it is no loss)
	Events uint64 // reads and writes, or pieces of them
	Bytes  uint64
	Heads  uint64 // of HTTP messages
}

// lossReasons are in the order of enum loss_reason.
func lossReasons() []string { return []string{"ring_full", "budget", "pressure", "sampled"} }

// openLosses makes the entries of those that will find no room.
func (o *Objects) openLosses() error {
	for reason := range lossReasons() {
		if err := o.maps["losses"].Put(procLossKey{Reason: uint32(reason)}, procLoss{}); err != nil {
			return fmt.Errorf("prepare the table of losses: %w", err)
		}
	}
	return nil
}

// CgroupLosses returns every loss since Load. Those of a cgroup that is gone stay.
func (o *Objects) CgroupLosses() ([]CgroupLoss, error) {
	var list []CgroupLoss
	var key procLossKey
	var l procLoss
	entries := o.maps["losses"].Iterate()
	for entries.Next(&key, &l) {
		if l.Events > 0 && int(key.Reason) < len(lossReasons()) {
			list = append(list, CgroupLoss{Cgroup: key.Cgroup, Reason: lossReasons()[key.Reason], Events: l.Events, Bytes: l.Bytes, Heads: l.Heads})
		}
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("read the losses of cgroups: %w", err)
	}
	return list, nil
}
