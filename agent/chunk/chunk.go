// Package chunk names what leaves the kernel: one piece of one direction of a plaintext stream.
//
// A Chunk is what a single read or write of a watched process moved. Chunks of a stream and direction carry the byte
// offset at which they begin, so whoever reads them knows exactly what is missing:
//
//	offset  0        512            2048          2048+length
//	        |--Data--|   (a gap)    |--Data--|....|
//	                                         ^ captured ends here; Length says how much moved
//
// The package is pure. It also owns the recording format (Writer, Reader), which stores chunks as they are.
package chunk

import (
	"net/netip"
	"time"
)

// StreamID names one plaintext stream (both directions); it is never reused while an agent runs.
type StreamID uint64

// ConnID names one TCP connection; 0 is unknown.
type ConnID uint64

// Direction is seen from the process: Ingress was received, Egress was sent.
type Direction uint8

const (
	Ingress Direction = 0
	Egress  Direction = 1
)

// Layer is where the bytes were plain.
type Layer uint8

const (
	LayerSocket Layer = 1
	LayerTLS    Layer = 2
)

// Kind tells a piece of data from the end of its stream.
type Kind uint8

const (
	Data  Kind = 1
	Close Kind = 2
)

// Flags are facts about one chunk.
type Flags uint8

const (
	Fresh     Flags = 1 << iota // the stream was seen from its first byte
	Truncated                   // len(Data) < Length because of the capture cap
	Fault                       // user memory could not be read
	Unseen                      // the bytes passed without a readable buffer (sendfile, splice, io_uring)
	Head                        // the kernel took the first bytes for the head of an HTTP message
	Unbound                     // no socket is known: the peer is unknown
	Shed                        // a response that is left out on purpose: Length and Heads tell what passed
)

// Has reports whether all of f are set.
func (s Flags) Has(f Flags) bool { return s&f == f }

// Owner is the process at this end of the stream, as the kernel knew it at that moment.
type Owner struct {
	TGID   uint32
	TID    uint32
	Start  time.Duration // start of the process since boot: with TGID it names a process for good
	NetNS  uint32        // inode of the network namespace
	Cgroup uint64        // cgroup v2 id
	Comm   string
}

// Chunk is one piece of one direction of a stream, or its end.
type Chunk struct {
	Kind      Kind
	Layer     Layer
	Direction Direction
	Flags     Flags
	Time      time.Duration // since boot
	Stream    StreamID
	Conn      ConnID
	ConnBirth time.Duration // since boot
	Offset    uint64        // of the first byte in this direction; Close: final egress offset
	PeerOff   uint64        // Close: final ingress offset
	Seq       uint32        // per stream and direction
	Length    uint32        // bytes that moved; len(Data) of them were captured
	Heads     uint32        // message heads the kernel saw begin in this direction, this chunk included; Close: egress
	PeerHeads uint32        // Close: ingress
	Local     netip.AddrPort
	Remote    netip.AddrPort
	Owner     Owner
	Data      []byte // valid until the next chunk is asked for
}
