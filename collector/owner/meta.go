package owner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// meta is what a commit ends with: how far the partition has read, and whom it has heard.
//
//	meta   { 1: version  2: offset  3: part of  4: part calls  5: agent...  6: now }
//	agent  { 1: name  3: window... }
//	window { 1: epoch  2: high  3: bitmap, 128 bytes little-endian  4: milliseconds silent before now  5: runs, where shorter }
//
// Runs are the lengths of taken and of missing batches in turn, from the highest number down. It is written at every commit, so
// its size counts: most agents' batches of one partition are nearly all or few.
type meta struct {
	// offset is the last record that is taken into account as a whole.
	offset uint64
	// Of record partOf, behind offset, the first partCalls calls are taken into account.
	partOf    uint64
	partCalls uint64
	marks     watermarks
}

// metaVersion 1 had no runs, and no time.
const metaVersion = 2

var errMeta = errors.New("malformed position")

func (m *meta) encode() []byte {
	var b []byte
	for i, v := range [...]uint64{metaVersion, m.offset, m.partOf, m.partCalls} {
		b = protowire.AppendVarint(protowire.AppendTag(b, protowire.Number(i+1), protowire.VarintType), v)
	}
	var inner, win, runs []byte
	for _, name := range slices.Sorted(maps.Keys(m.marks.agents)) {
		inner = protowire.AppendString(protowire.AppendTag(inner[:0], 1, protowire.BytesType), name)
		for _, w := range m.marks.agents[name] {
			win = protowire.AppendVarint(protowire.AppendTag(win[:0], 1, protowire.VarintType), w.epoch)
			win = protowire.AppendVarint(protowire.AppendTag(win, 2, protowire.VarintType), w.high)
			if runs = w.appendRuns(runs[:0]); len(runs) < windowWords*8 {
				win = protowire.AppendBytes(protowire.AppendTag(win, 5, protowire.BytesType), runs)
			} else {
				win = protowire.AppendVarint(protowire.AppendTag(win, 3, protowire.BytesType), windowWords*8)
				for _, word := range w.bits {
					win = binary.LittleEndian.AppendUint64(win, word)
				}
			}
			win = protowire.AppendVarint(protowire.AppendTag(win, 4, protowire.VarintType), uint64(m.marks.now-w.heard))
			inner = protowire.AppendBytes(protowire.AppendTag(inner, 3, protowire.BytesType), win)
		}
		b = protowire.AppendBytes(protowire.AppendTag(b, 5, protowire.BytesType), inner)
	}
	return protowire.AppendVarint(protowire.AppendTag(b, 6, protowire.VarintType), uint64(m.marks.now))
}

// appendRuns appends the run lengths of the bitmap, without the missing ones at its end.
func (w *window) appendRuns(b []byte) []byte {
	taken, length := true, uint64(0)
	for n := range uint64(windowBatches) {
		if seq := w.high - n; (w.bits[seq%windowBatches/64]>>(seq%64)&1 == 1) != taken {
			b = protowire.AppendVarint(b, length)
			taken, length = !taken, 0
		}
		length++
	}
	if taken {
		b = protowire.AppendVarint(b, length)
	}
	return b
}

// takeRuns sets the bits that runs tell, from high down.
func (w *window) takeRuns(runs []byte) error {
	clear(w.bits[:])
	taken, at := true, uint64(0)
	for len(runs) > 0 {
		length, size := protowire.ConsumeVarint(runs)
		if size < 0 || length > windowBatches-at {
			return fmt.Errorf("%w: runs beyond %d batches", errMeta, windowBatches)
		}
		runs = runs[size:]
		for end := at + length; at < end; at++ {
			if seq := w.high - at; taken {
				w.bits[seq%windowBatches/64] |= 1 << (seq % 64)
			}
		}
		taken = !taken
	}
	return nil
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
		case 6:
			m.marks.now = int64(v)
		}
		return nil
	})
	if err == nil && version > metaVersion {
		err = fmt.Errorf("%w: version %d, this program knows %d; use the newer one", errMeta, version, metaVersion)
	}
	for _, windows := range m.marks.agents {
		for _, w := range windows {
			w.heard += m.marks.now
		}
	}
	return m, err
}

// decode reads one agent's windows; heard becomes relative to a now that stands behind.
func (m *watermarks) decode(b []byte) error {
	name, windows := "", []*window(nil)
	err := fields(b, func(n protowire.Number, _ uint64, inner []byte) error {
		switch n {
		case 1:
			name = string(inner)
		case 3:
			w, err := decodeWindow(inner)
			i, again := search(windows, w.epoch)
			if err == nil && again {
				err = fmt.Errorf("%w: epoch %d twice", errMeta, w.epoch)
			}
			windows = slices.Insert(windows, i, w)
			return err
		}
		return nil
	})
	if err == nil && (len(windows) == 0 || m.agents[name] != nil) {
		err = fmt.Errorf("%w: agent %q twice or without a window", errMeta, name)
	}
	m.agents[name] = windows
	m.count += len(windows)
	return err
}

func decodeWindow(b []byte) (*window, error) {
	w, runs := &window{}, []byte(nil)
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
		case 4:
			if v > math.MaxInt64 {
				return fmt.Errorf("%w: silent for %d ms", errMeta, v)
			}
			w.heard = -int64(v)
		case 5:
			runs = inner
		}
		return nil
	})
	if err == nil && len(runs) > 0 {
		err = w.takeRuns(runs)
	}
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
