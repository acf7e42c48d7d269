package bpf

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
)

// idleStream is how long a TLS stream without a socket may be silent before it is over: a library without a function
// that frees (Go) never says so. deadWrite is the same for a write of Go that has sent nothing.
const (
	idleStream = 10 * time.Minute
	deadWrite  = time.Minute
)

// Forget drops the TLS streams without a socket whose process is among tgids, which have ended, or that have been silent
// for ten minutes. It returns the ends of those that had data, as the kernel would have said them; complete is false
// where other changes cut it short and it is to be called again. A stream with a socket ends with that.
func (o *Objects) Forget(tgids map[uint32]struct{}, now time.Duration) (ends []Event, complete bool, err error) {
	gone := map[procTlsKey]procTlsStream{} // an iteration beside deletions may meet an entry twice
	var key procTlsKey
	var stream procTlsStream
	entries := o.maps["tls_streams"].Iterate()
	for entries.Next(&key, &stream) {
		_, ended := tgids[key.Tgid]
		if stream.Sk == 0 && (ended || now-time.Duration(stream.Seen) > idleStream) {
			gone[key] = stream
		}
	}
	complete = entries.Err() == nil
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, false, fmt.Errorf("list TLS streams: %w", err)
	}
	for key, stream := range gone {
		// Another end (SSL_free) may have come first, and has been told.
		if err := o.maps["tls_streams"].Delete(key); err != nil {
			continue
		}
		for _, prefix := range stream.Prefixes {
			if prefix.Tgid != 0 {
				// Few were sent, which removes them.
				_ = o.maps["prefixes"].Delete(prefix)
			}
		}
		s := stream.Plain
		if s.Seq[0]|s.Seq[1] != 0 {
			ends = append(ends, Event{
				Kind: EventClose, Layer: s.Layer, Flags: s.Flags, Time: uint64(now), Stream: s.Id,
				Offset: s.Offset[1], PeerOffset: s.Offset[0], Heads: s.Heads[1], PeerHeads: s.Heads[0],
				Tgid: s.Tgid, Tid: s.Tid, Start: s.Start, Netns: s.Netns, Cgroup: s.Cgroup, Comm: s.Comm,
			})
		}
	}
	whole, err := o.forgetCalls(tgids, now)
	return ends, complete && whole, err
}

// As in calls.h.
const (
	callGoWrite = 4
	maxCalls    = 3
)

// ForgetCalls drops the calls that probes of these slots saw begin: nobody will see them end. Whoever is in one is taken
// to be in none.
func (o *Objects) ForgetCalls(slots []uint32) error {
	var gone []procCaller
	var who procCaller
	var calls procTlsCalls
	entries := o.maps["tls_calls"].Iterate()
	for entries.Next(&who, &calls) {
		for _, call := range calls.At[:min(calls.Depth, maxCalls)] {
			if slices.Contains(slots, call.Slot) {
				gone = append(gone, who)
				break
			}
		}
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("list TLS calls: %w", err)
	}
	for _, who := range gone {
		// It may have ended meanwhile.
		_ = o.maps["tls_calls"].Delete(who)
	}
	return nil
}

// forgetCalls drops the calls in which the goroutines of ended processes were, and writes of Go that failed; threads took
// theirs with them.
func (o *Objects) forgetCalls(tgids map[uint32]struct{}, now time.Duration) (complete bool, err error) {
	var gone []procCaller
	var who procCaller
	var calls procTlsCalls
	entries := o.maps["tls_calls"].Iterate()
	for entries.Next(&who, &calls) {
		_, ended := tgids[who.Tgid]
		only := calls.At[0]
		dead := calls.Depth == 1 && only.Kind == callGoWrite && only.Sent == 0 && now-time.Duration(only.Time) > deadWrite
		if ended || dead {
			gone = append(gone, who)
		}
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return false, fmt.Errorf("list TLS calls: %w", err)
	}
	for _, who := range gone {
		// The thread may have taken it away meanwhile.
		_ = o.maps["tls_calls"].Delete(who)
	}
	return entries.Err() == nil, nil
}
