package bpf

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// Count is one counter of the kernel side.
type Count struct {
	Name  string // as in count.h, without its prefix, in lower case
	Value uint64
	Lost  bool // something of the selection is missing
}

type countName struct {
	name string
	lost bool
}

// countNames takes the names from the C enum, so that there is no second list to keep.
func countNames(spec *ebpf.CollectionSpec) ([]countName, error) {
	var enum *btf.Enum
	if err := spec.Types.TypeByName("count", &enum); err != nil {
		return nil, fmt.Errorf("find the names of counters: %w", err)
	}
	var names []countName
	for _, v := range enum.Values {
		prefix, name, found := strings.Cut(v.Name, "_")
		if v.Name == "COUNT_MAX" {
			break
		}
		if !found || v.Value != uint64(len(names)) || prefix != "COUNT" && prefix != "LOST" {
			return nil, fmt.Errorf("name counter %d: %s does not fit", len(names), v.Name)
		}
		names = append(names, countName{strings.ToLower(name), prefix == "LOST"})
	}
	return names, nil
}

// Counts returns every counter, summed over the processors, and "hooks_missed": how often the kernel did not run a program,
// because the same one was already at work on that processor, preempted.
func (o *Objects) Counts() ([]Count, error) {
	counts := make([]Count, len(o.counts))
	for i, name := range o.counts {
		var perCPU []uint64
		if err := o.maps["counts"].Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", name.name, err)
		}
		counts[i] = Count{Name: name.name, Lost: name.lost}
		for _, v := range perCPU {
			counts[i].Value += v
		}
	}
	missed := Count{Name: "hooks_missed"} // of the whole host, so what is selected may have lost nothing
	seen := map[*ebpf.Program]bool{}
	for name, p := range o.programs {
		if seen[p] { // one program has several names
			continue
		}
		seen[p] = true
		stats, err := p.Stats()
		if err != nil {
			return nil, fmt.Errorf("read what %s missed: %w", name, err)
		}
		missed.Value += stats.RecursionMisses
	}
	return append(counts, missed), nil
}

// Mute stops the capture of a stream: its offsets still advance, its bytes are not read any more. One goroutine calls it.
func (o *Objects) Mute(stream uint64) error {
	if err := o.maps["mutes"].Put(stream, uint8(1)); err != nil {
		return fmt.Errorf("mute stream %d: %w", stream, err)
	}
	o.mutes++
	// The version comes last: who sees it finds the entry.
	if err := o.maps["policies"].Put(uint32(policyMutes), procPolicy{Version: o.mutes}); err != nil {
		return fmt.Errorf("mute stream %d: %w", stream, err)
	}
	return nil
}
