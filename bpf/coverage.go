package bpf

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Coverage is what one process moved in TLS since it was first seen, and how much of that was decoded. Bytes are
// counted at its sockets, both directions.
type Coverage struct {
	TGID         uint32
	Start        time.Duration // of the process, since boot
	Cgroup       uint64        // cgroup v2 id
	Comm         string        // the kernel's name of it, which a program chooses
	TLSBytes     uint64        // of TLS records
	DecodedBytes uint64        // of those, on connections whose plain bytes are read
	UnboundBytes uint64        // plain bytes of TLS streams whose socket is unknown
	QUICBytes    uint64        // of UDP sockets that speak QUIC
	KTLS         bool          // the kernel encrypts for it
	Ended        bool          // the process has ended: this is its last figure
}

// Coverage returns the figures of every process that moved any. Those that have ended are returned for the last time.
func (o *Objects) Coverage() ([]Coverage, error) {
	var list []Coverage
	var ended []procProcessId
	seen := map[procProcessId]bool{} // an iteration beside deletions may meet an entry twice
	var id procProcessId
	var c procCoverage
	entries := o.maps["coverages"].Iterate()
	for entries.Next(&id, &c) {
		if seen[id] {
			continue
		}
		seen[id] = true
		if c.Ended != 0 {
			ended = append(ended, id)
		}
		list = append(list, Coverage{
			TGID: id.Tgid, Start: time.Duration(id.Start), Cgroup: c.Cgroup, Comm: unix.ByteSliceToString(c.Comm[:]), TLSBytes: c.Tls, DecodedBytes: c.Decoded,
			UnboundBytes: c.Unbound, QUICBytes: c.Quic, KTLS: c.Ktls != 0, Ended: c.Ended != 0,
		})
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("read the coverage of processes: %w", err)
	}
	for _, id := range ended {
		// Its sockets may live on in another process, which has an entry of its own.
		_ = o.maps["coverages"].Delete(id)
	}
	return list, nil
}
