package bpf

import "fmt"

// ProbeSlots is how many placements of a program in a file have counters of their own (probe.h). A slot is given as
// attach cookie; slot 0 is for those without one, and on kernels without cookies (before 5.15) for all.
const ProbeSlots = 8192

// Hits returns how often the probes of each of the slots were hit since Load.
func (o *Objects) Hits(slots []uint32) ([]uint64, error) {
	sums := make([]uint64, len(slots))
	var perCPU []uint64
	for i, slot := range slots {
		if err := o.maps["probe_hits"].Lookup(slot, &perCPU); err != nil {
			return nil, fmt.Errorf("read the hits of probes: %w", err)
		}
		for _, n := range perCPU {
			sums[i] += n
		}
	}
	return sums, nil
}

// SiteChecks returns how often the places that ssl_check lies on were hit with the arguments of the call around them, and
// how often with others, by slot.
func (o *Objects) SiteChecks(slots []uint32) (agree, disagree []uint64, err error) {
	agree, disagree = make([]uint64, len(slots)), make([]uint64, len(slots))
	var perCPU []procSiteCheck
	for i, slot := range slots {
		if err := o.maps["site_checks"].Lookup(slot, &perCPU); err != nil {
			return nil, nil, fmt.Errorf("read the checks of probe sites: %w", err)
		}
		for _, c := range perCPU {
			agree[i] += c.Agree
			disagree[i] += c.Disagree
		}
	}
	return agree, disagree, nil
}
