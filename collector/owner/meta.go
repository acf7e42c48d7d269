package owner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// meta is what a commit ends with: how far the partition has read, and whom it has heard.
//
//	meta   { 1: version  2: offset  3: part of  4: part calls  5: agent... }
//	agent  { 1: name  2: heard  3: window... }
//	window { 1: epoch  2: high  3: bitmap, 128 bytes little-endian }
type meta struct {
	// offset is the last record that is taken into account as a whole.
	offset uint64
	// Of record partOf, behind offset, the first partCalls calls are taken into account.
	partOf    uint64
	partCalls uint64
	marks     watermarks
}

const metaVersion = 1

var errMeta = errors.New("malformed position")

func (m *meta) encode() []byte {
	var b []byte
	for i, v := range [...]uint64{metaVersion, m.offset, m.partOf, m.partCalls} {
		b = protowire.AppendVarint(protowire.AppendTag(b, protowire.Number(i+1), protowire.VarintType), v)
	}
	var inner, win []byte
	for _, name := range slices.Sorted(maps.Keys(m.marks.agents)) {
		a := m.marks.agents[name]
		inner = protowire.AppendString(protowire.AppendTag(inner[:0], 1, protowire.BytesType), name)
		inner = protowire.AppendVarint(protowire.AppendTag(inner, 2, protowire.VarintType), a.heard)
		for _, w := range a.windows {
			win = protowire.AppendVarint(protowire.AppendTag(win[:0], 1, protowire.VarintType), w.epoch)
			win = protowire.AppendVarint(protowire.AppendTag(win, 2, protowire.VarintType), w.high)
			win = protowire.AppendVarint(protowire.AppendTag(win, 3, protowire.BytesType), windowWords*8)
			for _, word := range w.bits {
				win = binary.LittleEndian.AppendUint64(win, word)
			}
			inner = protowire.AppendBytes(protowire.AppendTag(inner, 3, protowire.BytesType), win)
		}
		b = protowire.AppendBytes(protowire.AppendTag(b, 5, protowire.BytesType), inner)
	}
	return b
}

// decodeMeta reads what encode wrote; no bytes are the position of a new partition.
func decodeMeta(b []byte) (meta, error) {
	m := meta{marks: newWatermarks()}
	version := uint64(metaVersion)
	err := fields(b, func(n protowire.Number, v uint64, inner []byte) error {
		switch n {
		case 1:
			version = v
		case 2:
			m.offset = v
		case 3:
			m.partOf = v
		case 4:
			m.partCalls = v
		case 5:
			return m.marks.decode(inner)
		}
		return nil
	})
	if err == nil && version != metaVersion {
		err = fmt.Errorf("%w: version %d, this program knows %d; use the newer one", errMeta, version, metaVersion)
	}
	return m, err
}

func (m *watermarks) decode(b []byte) error {
	a, name := &agentMarks{}, ""
	err := fields(b, func(n protowire.Number, v uint64, inner []byte) error {
		switch n {
		case 1:
			name = string(inner)
		case 2:
			a.heard = v
			m.clock = max(m.clock, v)
		case 3:
			w, err := decodeWindow(inner)
			a.windows = append(a.windows, w)
			return err
		}
		return nil
	})
	m.agents[name] = a
	return err
}

func decodeWindow(b []byte) (*window, error) {
	w := &window{}
	err := fields(b, func(n protowire.Number, v uint64, inner []byte) error {
		switch n {
		case 1:
			w.epoch = v
		case 2:
			w.high = v
		case 3:
			if len(inner) != windowWords*8 {
				return fmt.Errorf("%w: bitmap of %d bytes", errMeta, len(inner))
			}
			for i := range w.bits {
				w.bits[i] = binary.LittleEndian.Uint64(inner[i*8:])
			}
		}
		return nil
	})
	return w, err
}

// fields calls fn for each field of a protobuf message, with the number or the bytes that it holds.
func fields(b []byte, fn func(n protowire.Number, v uint64, inner []byte) error) error {
	for len(b) > 0 {
		n, typ, size := protowire.ConsumeTag(b)
		if size < 0 {
			return fmt.Errorf("%w: %v", errMeta, protowire.ParseError(size))
		}
		b = b[size:]
		var v uint64
		var inner []byte
		switch typ {
		case protowire.VarintType:
			v, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			inner, size = protowire.ConsumeBytes(b)
		default:
			size = protowire.ConsumeFieldValue(n, typ, b)
		}
		if size < 0 {
			return fmt.Errorf("%w: %v", errMeta, protowire.ParseError(size))
		}
		b = b[size:]
		if err := fn(n, v, inner); err != nil {
			return err
		}
	}
	return nil
}
