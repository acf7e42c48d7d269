// Package source turns what the kernel said into chunks and process events, in an order the rest can rely on.
//
//	bpf.Record ──Ring──▶ *chunk.Chunk   a piece of a stream, or its end
//	                 └─▶ Process        a program began, a process crashed, or it ended
//
// The kernel keeps two rings: data, and control (ends of streams, exec, exit), so that a flood of data cannot starve
// the control events. Two rings have no common order, so Ring restores the one that matters: a Close is handed on
// after every piece of its stream. bpf.Reader reads in turns, control first, then the data ring up to where it ended
// when the control ring had been read; data that precede a Close in time are therefore read in the same turn at the
// latest, and Ring keeps each Close until the turn has ended. Process events are not held.
//
// Ring runs in one goroutine, the caller's, and holds at most the Closes of one turn (the control ring bounds them).
// A record that does not fit is counted and skipped; anything the kernel could not hand over has its counter there
// (bpf.Objects.Counts) and shows as a gap between offsets.
//
// A TLS stream whose socket is unknown ends with no event of the kernel when its process is gone. Ring asks the kernel
// side to forget such streams some seconds after the exit and hands on their Closes.
package source
