package chunk

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"time"
)

// A recording is a header and then records to the end of the file, all little endian:
//
//	magic "SPILEREC" | version u16 | header length u16 | header | crc32c of all before
//	record: length u32 | crc32c u32 of the payload | payload = fixed part (208 bytes) + Data
//	header: boot-to-unix offset i64 ns | agent version (u16 length + bytes) | node (u16 length + bytes)
//
// Lengths are bounded before anything is allocated, so a damaged file costs at most MaxData bytes.
const (
	magic        = "SPILEREC"
	version      = 1
	maxHeader    = 1024
	fixedBytes   = 208
	commBytes    = 16
	prefaceBytes = len(magic) + 4
	recordHead   = 8

	// MaxData is the most a recorded chunk may carry.
	MaxData = 1 << 20
)

var (
	// ErrNotRecording says that the file is something else.
	ErrNotRecording = errors.New("not a spile recording")
	// ErrVersion says that a newer agent wrote the file.
	ErrVersion = errors.New("recording is of another version")
	// ErrCorrupt says that the bytes are not those that were written.
	ErrCorrupt = errors.New("recording is corrupt")
	// ErrTooLarge says that a chunk or a header does not fit the format.
	ErrTooLarge = errors.New("too large for a recording")
)

// Header says where a recording was made.
type Header struct {
	Agent      string        // version of the agent
	Node       string        // where it ran
	BootToUnix time.Duration // boot time + BootToUnix = Unix time, when the recording began
}

// checksum uses the polynomial that processors know; MakeTable returns its one shared table.
func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func appendHeader(b []byte, h Header) []byte {
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint16(b, version)
	b = binary.LittleEndian.AppendUint16(b, uint16(8+2+len(h.Agent)+2+len(h.Node)))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.BootToUnix))
	for _, s := range []string{h.Agent, h.Node} {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

// parseHeader reads what follows the length field.
func parseHeader(b []byte) (Header, bool) {
	var h Header
	if len(b) < 8 {
		return h, false
	}
	h.BootToUnix = time.Duration(binary.LittleEndian.Uint64(b))
	b = b[8:]
	for _, s := range []*string{&h.Agent, &h.Node} {
		if len(b) < 2 {
			return h, false
		}
		n := int(binary.LittleEndian.Uint16(b))
		if len(b) < 2+n {
			return h, false
		}
		*s, b = string(b[2:2+n]), b[2+n:]
	}
	return h, len(b) == 0
}

func appendChunk(b []byte, c *Chunk) []byte {
	le := binary.LittleEndian
	b = append(b, byte(c.Kind), byte(c.Layer), byte(c.Direction), byte(c.Flags))
	b = append(b, family(c.Local), family(c.Remote), 0, 0)
	for _, v := range []uint64{
		uint64(c.Time), uint64(c.Stream), uint64(c.Conn), uint64(c.ConnBirth), c.Offset, c.PeerOff,
		uint64(c.Owner.Start), c.Owner.Cgroup,
	} {
		b = le.AppendUint64(b, v)
	}
	for _, v := range []uint32{
		c.Seq, c.Length, c.Heads, c.PeerHeads, c.Owner.TGID, c.Owner.TID, c.Owner.NetNS, uint32(len(c.Data)),
	} {
		b = le.AppendUint32(b, v)
	}
	for _, a := range []netip.AddrPort{c.Local, c.Remote} {
		var raw [16]byte
		if a.Addr().IsValid() {
			raw = a.Addr().As16()
		}
		b = append(b, raw[:]...)
		b = le.AppendUint16(b, a.Port())
	}
	var comm [commBytes]byte
	copy(comm[:], c.Owner.Comm)
	b = append(b, comm[:]...)
	b = append(b, make([]byte, fixedBytes-usedBytes)...)
	return append(b, c.Data...)
}

// usedBytes of the fixed part carry something; the rest is zero and belongs to later fields.
const usedBytes = 8 + 8*8 + 8*4 + 2*18 + commBytes

// parseChunk reads a payload; Data aliases b.
func parseChunk(b []byte, c *Chunk) bool {
	if len(b) < fixedBytes || int(binary.LittleEndian.Uint32(b[100:])) != len(b)-fixedBytes {
		return false
	}
	le := binary.LittleEndian
	u64 := func(i int) uint64 { return le.Uint64(b[8+8*i:]) }
	u32 := func(i int) uint32 { return le.Uint32(b[72+4*i:]) }
	*c = Chunk{
		Kind: Kind(b[0]), Layer: Layer(b[1]), Direction: Direction(b[2]), Flags: Flags(b[3]),
		Time: time.Duration(u64(0)), Stream: StreamID(u64(1)), Conn: ConnID(u64(2)), ConnBirth: time.Duration(u64(3)),
		Offset: u64(4), PeerOff: u64(5),
		Seq: u32(0), Length: u32(1), Heads: u32(2), PeerHeads: u32(3),
		Local: address(b[4], b[104:122]), Remote: address(b[5], b[122:140]),
		Owner: Owner{
			Start: time.Duration(u64(6)), Cgroup: u64(7), TGID: u32(4), TID: u32(5), NetNS: u32(6),
			Comm: text(b[140 : 140+commBytes]),
		},
	}
	if n := len(b) - fixedBytes; n > 0 {
		c.Data = b[fixedBytes:]
	}
	known := (c.Kind == Data || c.Kind == Close) && c.Direction <= Egress
	return known && b[4] <= 6 && b[5] <= 6
}

// family is 0 for no address, else 4 or 6.
func family(a netip.AddrPort) byte {
	switch {
	case !a.Addr().IsValid():
		return 0
	case a.Addr().Is4():
		return 4
	}
	return 6
}

func address(family byte, b []byte) netip.AddrPort {
	port := binary.LittleEndian.Uint16(b[16:])
	switch family {
	case 4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), port)
	case 6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[:16])), port)
	}
	return netip.AddrPortFrom(netip.Addr{}, port)
}

func text(b []byte) string {
	for i, v := range b {
		if v == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
