package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Forget drops the TLS streams without a socket whose process is among tgids, which have ended. It returns the ends
// of those that had data, as the kernel would have said them. A stream with a socket ends with that.
func (o *Objects) Forget(tgids map[uint32]struct{}) ([]Event, error) {
	gone := map[procTlsKey]*Event{} // an iteration beside deletions may meet an entry twice
	var key procTlsKey
	var stream procTlsStream
	entries := o.maps["tls_streams"].Iterate()
	for entries.Next(&key, &stream) {
		if _, ended := tgids[key.Tgid]; !ended || stream.Sk != 0 {
			continue
		}
		gone[key] = nil
		s := stream.Plain
		if s.Seq[0]|s.Seq[1] == 0 {
			continue
		}
		var now unix.Timespec
		// It cannot fail: CLOCK_BOOTTIME is older than BPF.
		_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
		gone[key] = &Event{
			Kind: EventClose, Layer: s.Layer, Flags: s.Flags, Time: uint64(now.Nano()), Stream: s.Id,
			Offset: s.Offset[1], PeerOffset: s.Offset[0], Heads: s.Heads[1], PeerHeads: s.Heads[0],
			Tgid: s.Tgid, Tid: s.Tid, Start: s.Start, Netns: s.Netns, Cgroup: s.Cgroup, Comm: s.Comm,
		}
	}
	// An iteration that deletions cut short leaves the rest to the next call.
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("list TLS streams: %w", err)
	}
	var ends []Event
	for key, end := range gone {
		// Another end (SSL_free) may have come first, and has been told.
		if err := o.maps["tls_streams"].Delete(key); err == nil && end != nil {
			ends = append(ends, *end)
		}
	}
	return ends, o.forgetCalls(tgids)
}

// forgetCalls drops the calls in which the goroutines of ended processes were; threads took theirs with them.
func (o *Objects) forgetCalls(tgids map[uint32]struct{}) error {
	var gone []procCaller
	var who procCaller
	var calls procTlsCalls
	entries := o.maps["tls_calls"].Iterate()
	for entries.Next(&who, &calls) {
		if _, ended := tgids[who.Tgid]; ended {
			gone = append(gone, who)
		}
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("list TLS calls: %w", err)
	}
	for _, who := range gone {
		// The thread may have taken it away meanwhile.
		_ = o.maps["tls_calls"].Delete(who)
	}
	return nil
}
