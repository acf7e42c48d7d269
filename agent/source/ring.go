package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/bpf"
)

// Kind tells the events of a process apart.
type Kind uint8

const (
	Exec  Kind = 1 // it replaced its program
	Exit  Kind = 2 // its last thread ended
	Crash Kind = 3 // it is ending by a fault, or soon after one; its Exit follows
)

// Process is one event of a process.
type Process struct {
	Kind   Kind
	TGID   uint32
	Start  time.Duration // since boot: with TGID it names a process for good
	Exe    bpf.FileID    // as the kernel knows it; zero for Exit, and for Crash where the fault was not seen
	Comm   string
	NetNS  uint32
	Cgroup uint64        // cgroup v2 id
	Time   time.Duration // since boot
	Crash  bpf.Crash     // the facts of a Crash
}

// Reader is the two rings of the kernel: *bpf.Reader.
type Reader interface {
	Read(*bpf.Record) error
	Close() error
}

// Streams is the kernel's table of TLS streams: *bpf.Objects.
type Streams interface {
	// Forget drops the streams without a socket of these processes, and those long silent, and returns the ends of those
	// that had data; complete is false where it is to be called again.
	Forget(tgids map[uint32]struct{}, now time.Duration) (ends []bpf.Event, complete bool, err error)
}

// Counts are what passed and what did not.
type Counts struct {
	Chunks    uint64
	Closes    uint64
	Processes uint64
	Crashes   uint64 // among Processes
	Malformed uint64 // records that do not fit the wire
}

// Ring reads the kernel's rings.
type Ring struct {
	reader    Reader
	streams   Streams
	counts    Counts
	closes    []chunk.Chunk       // of this turn
	ended     map[uint32]struct{} // processes whose streams are to be forgotten
	forgotten time.Duration       // when that was last done, since boot
}

// New returns a Ring on an open reader, which it closes at the end of Run.
func New(reader Reader, streams Streams) *Ring {
	return &Ring{reader: reader, streams: streams, ended: map[uint32]struct{}{}}
}

// Counts returns the totals. Call it from the callbacks of Run, or after Run.
func (r *Ring) Counts() Counts { return r.counts }

// Run reads until ctx ends, which is no error. It calls onChunk and onProcess for each event and tick with the time
// since boot at the end of each turn, at least every 50 ms or so. A chunk is valid until its callback returns.
func (r *Ring) Run(ctx context.Context, onChunk func(*chunk.Chunk), onProcess func(Process), tick func(now time.Duration)) error {
	defer r.reader.Close()
	ending := false
	var record bpf.Record
	var c chunk.Chunk
	for {
		err := r.reader.Read(&record)
		switch {
		case err == nil:
			r.hand(&record, &c, onChunk, onProcess)
		case errors.Is(err, bpf.ErrDrained):
			r.endTurn(onChunk)
			now := SinceBoot()
			if err := r.forget(onChunk, now); err != nil {
				return err
			}
			tick(now)
			if ending {
				return nil
			}
			// One more turn: what was in the rings when the end was asked for is handed on.
			ending = ctx.Err() != nil
		case errors.Is(err, bpf.ErrMalformed):
			r.counts.Malformed++
		default:
			return fmt.Errorf("read events: %w", err)
		}
	}
}

// hand sorts one record.
func (r *Ring) hand(record *bpf.Record, c *chunk.Chunk, onChunk func(*chunk.Chunk), onProcess func(Process)) {
	e := &record.Event
	switch e.Kind {
	case bpf.EventData:
		if e.Layer != uint8(chunk.LayerSocket) && e.Layer != uint8(chunk.LayerTLS) || e.Direction > uint8(chunk.Egress) || e.Captured > e.Length {
			r.counts.Malformed++
			return
		}
		r.counts.Chunks++
		fill(c, e, chunk.Data)
		c.Data = record.Data
		onChunk(c)
	case bpf.EventClose:
		r.closes = append(r.closes, chunk.Chunk{})
		fill(&r.closes[len(r.closes)-1], e, chunk.Close)
	case bpf.EventCrash:
		c := bpf.CrashOf(e)
		r.counts.Processes++
		r.counts.Crashes++
		onProcess(Process{Kind: Crash, TGID: c.TGID, Start: c.Start, Exe: c.Exe, Comm: c.Comm, Cgroup: e.Cgroup, Time: time.Duration(e.Time), Crash: c})
	case bpf.EventExec, bpf.EventExit:
		p := Process{Kind: Exec, TGID: e.Tgid, Start: time.Duration(e.Start), Comm: comm(e), NetNS: e.Netns, Cgroup: e.Cgroup, Time: time.Duration(e.Time)}
		p.Exe = bpf.FileID{Dev: e.Offset, Ino: e.PeerOffset}
		if e.Kind == bpf.EventExit {
			p.Kind, p.Exe = Exit, bpf.FileID{}
			r.ended[e.Tgid] = struct{}{}
		} else {
			// The number may have come back before its old streams were forgotten: they are told apart by start time.
			delete(r.ended, e.Tgid)
		}
		r.counts.Processes++
		onProcess(p)
	default:
		r.counts.Malformed++
	}
}

// endTurn hands on the Closes that waited for the data before them.
func (r *Ring) endTurn(onChunk func(*chunk.Chunk)) {
	for i := range r.closes {
		r.counts.Closes++
		onChunk(&r.closes[i])
	}
	r.closes = r.closes[:0]
}

const (
	// forgetAfter is long enough for what an ended process said to have been read.
	forgetAfter = 2 * time.Second
	// sweepEvery is the time between two searches for streams that are over without anybody having ended.
	sweepEvery = time.Minute
)

func (r *Ring) forget(onChunk func(*chunk.Chunk), now time.Duration) error {
	since := now - r.forgotten
	if since < forgetAfter || len(r.ended) == 0 && since < sweepEvery {
		return nil
	}
	r.forgotten = now
	ends, complete, err := r.streams.Forget(r.ended, now)
	if err != nil {
		return fmt.Errorf("forget the streams of ended processes: %w", err)
	}
	if complete {
		clear(r.ended)
	}
	var c chunk.Chunk
	for i := range ends {
		fill(&c, &ends[i], chunk.Close)
		r.counts.Closes++
		onChunk(&c)
	}
	return nil
}

// fill writes an event into a chunk, but for its bytes.
func fill(c *chunk.Chunk, e *bpf.Event, kind chunk.Kind) {
	name := c.Owner.Comm
	if !isComm(e, name) { // mostly it is that of the chunk before
		name = comm(e)
	}
	*c = chunk.Chunk{
		Kind: kind, Layer: chunk.Layer(e.Layer), Direction: chunk.Direction(e.Direction), Flags: chunk.Flags(e.Flags),
		Time: time.Duration(e.Time), Stream: chunk.StreamID(e.Stream),
		Conn: chunk.ConnID(e.Conn), ConnBirth: time.Duration(e.ConnBirth),
		Offset: e.Offset, PeerOff: e.PeerOffset, Seq: e.Seq, Length: e.Length, Heads: e.Heads, PeerHeads: e.PeerHeads,
		Owner: chunk.Owner{
			TGID: e.Tgid, TID: e.Tid, Start: time.Duration(e.Start), NetNS: e.Netns, Cgroup: e.Cgroup, Comm: name,
		},
	}
	if e.Conn != 0 {
		c.Local = netip.AddrPortFrom(netip.AddrFrom16(e.Local).Unmap(), e.LocalPort)
		c.Remote = netip.AddrPortFrom(netip.AddrFrom16(e.Remote).Unmap(), e.RemotePort)
	}
}

func isComm(e *bpf.Event, name string) bool {
	n := len(name)
	return n > 0 && n < len(e.Comm) && string(e.Comm[:n]) == name && e.Comm[n] == 0
}

func comm(e *bpf.Event) string {
	name, _, _ := bytes.Cut(e.Comm[:], []byte{0})
	return string(name)
}

// SinceBoot is the kernel's clock of events.
func SinceBoot() time.Duration {
	var now unix.Timespec
	// It cannot fail: CLOCK_BOOTTIME is older than BPF. It does not wait either, so the runtime need not hear of it.
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&now)), 0)
	return time.Duration(now.Nano())
}
