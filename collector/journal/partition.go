package journal

import "hash/fnv"

// Partitions is fixed for the life of an installation: what one owner reads and writes alone.
const Partitions = 64

// PartitionOf says which partition has a service: FNV-1a of tenant, cluster and service, NUL between them.
// Every path of a service meets in one partition, so templates and counts need no second stage.
func PartitionOf(tenant, cluster, service string) int {
	h := fnv.New64a()
	for _, s := range []string{tenant, cluster, service} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	// FNV-1a mixes its low bits least; fold the high ones in.
	sum := h.Sum64()
	return int((sum ^ sum>>32) % Partitions)
}
