package bpf

import (
	"time"

	"golang.org/x/sys/unix"
)

// EventCrash is a value of Event.Kind: a process ends by a signal that programs die of, or soon after one.
const EventCrash = 5

// Crash is what a process was doing when the signal came (crash.h). Any process is told of, selected or not: a probe in a
// shared library is in all of them.
type Crash struct {
	TGID         uint32
	Start        time.Duration // of the process, since boot
	Comm         string
	Exe          FileID        // zero where the signal was not seen
	Time         time.Duration // of the signal, since boot
	Signal       int
	Code         int    // si_code (sigaction(2))
	IP           uint64 // 0 where the signal was not seen
	Slot         uint32 // of the probe of the call that the thread was in; 0 = none, or a kernel without attach cookies
	Syscall      int    // of SIGSYS
	Status       int    // as wait(2) gives it
	InCall       bool   // the thread was in a call whose begin a probe had seen
	AtSite       bool   // at the instruction that the probe lies on
	InUprobeArea bool   // in the page where the kernel runs probed instructions, and to which return probes return
	BySelf       bool   // the process sent the signal to itself
}

// As in event.h.
const (
	crashInCall = 1 << iota
	crashAtSite
	crashInArea
	crashBySelf
)

// CrashOf reads an event of kind EventCrash.
func CrashOf(e *Event) Crash {
	return Crash{
		TGID: e.Tgid, Start: time.Duration(e.Start), Comm: unix.ByteSliceToString(e.Comm[:]), Exe: FileID{Dev: e.Offset, Ino: e.PeerOffset},
		Time: time.Duration(e.ConnBirth), Signal: int(e.Seq), Code: int(int32(e.Heads)), IP: e.Conn, Slot: uint32(e.Stream),
		Syscall: int(int32(e.Length)), Status: int(int32(e.PeerHeads)),
		InCall: e.Flags&crashInCall != 0, AtSite: e.Flags&crashAtSite != 0, InUprobeArea: e.Flags&crashInArea != 0,
		BySelf: e.Flags&crashBySelf != 0,
	}
}
