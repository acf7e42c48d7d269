package target

import (
	"debug/elf"
	"encoding/binary"
	"errors"
)

// errNoTextBase says that functions cannot be placed: their entries count from an address that the file does not give.
var errNoTextBase = errors.New("where its code begins could not be found")

// Offsets in runtime.moduledata, the same in Go 1.20 to 1.26.
const (
	moduleHeader = 0   // the address of the line table
	moduleMinPC  = 160 // of the first function
	moduleMaxPC  = 168 // of the end of the last one
	moduleText   = 176 // the text base
	moduleSize   = 184
)

// textBase finds the address that entries count from. Up to Go 1.25 the line table says it; Go 1.26 writes 0 there, and
// leaves it in the module data. The section .text is no substitute: a system's linker puts its own code first.
func (t lineTable) textBase() (uint64, error) {
	low, high, err := t.bounds()
	if err != nil {
		return 0, err
	}
	values, err := t.im.pointers(t.address + lineTableText)
	if err != nil {
		return 0, err
	}
	if base := values[0]; base != 0 {
		if !t.im.isCode(base+low, base+high) {
			return 0, errNoTextBase
		}
		return base, nil
	}
	s, ok, err := t.im.named(".go.module")
	if err := notBudget(err); err != nil {
		return 0, err
	}
	if ok {
		return t.moduleText(s.address, low, high)
	}
	// Without sections: the module data begins with the address of the line table.
	candidates, err := t.modules()
	for _, at := range candidates {
		if base, err := t.moduleText(at, low, high); err == nil || errors.Is(err, ErrBudget) {
			return base, err
		}
	}
	if err == nil {
		err = errNoTextBase
	}
	return 0, err
}

// bounds are the first function's entry and the last one's end, as distances from the text base.
func (t lineTable) bounds() (low, high uint64, err error) {
	first, err := t.im.word(t.functab)
	if err != nil {
		return 0, 0, err
	}
	last, err := t.im.word(t.functab + t.functions*functabEntry)
	if err == nil && last <= first {
		err = errNoTextBase
	}
	return uint64(first), uint64(last), err
}

// moduleText reads the text base of module data, if that is about this line table and these functions.
func (t lineTable) moduleText(module, low, high uint64) (uint64, error) {
	values, err := t.im.pointers(module+moduleHeader, module+moduleMinPC, module+moduleMaxPC, module+moduleText)
	if err != nil {
		return 0, err
	}
	header, minPC, maxPC, text := values[0], values[1], values[2], values[3]
	if header != t.address || text == 0 || minPC != text+low || maxPC != text+high || !t.im.isCode(minPC, maxPC) {
		return 0, errNoTextBase
	}
	return text, nil
}

// modules finds where the address of the line table stands among writable data, in place or as a relocation.
func (t lineTable) modules() (found []uint64, err error) {
	const maxCandidates = 16
	le := binary.LittleEndian
	for _, s := range t.im.segments {
		first := (8 - s.address%8) % 8
		if s.kind != uint32(elf.PT_LOAD) || s.flags&uint32(elf.PF_W) == 0 || first >= s.size {
			continue
		}
		err := t.im.r.pieces(s.offset+first, s.size-first, 0, func(piece []byte, at uint64) bool {
			for i := 0; i+8 <= len(piece) && len(found) < maxCandidates; i += 8 {
				if le.Uint64(piece[i:]) == t.address {
					found = append(found, s.address+(at+uint64(i)-s.offset))
				}
			}
			return len(found) < maxCandidates
		})
		if err := notBudget(err); err != nil {
			return nil, err
		}
	}
	table, size, err := t.im.relocations()
	if err != nil {
		return nil, err
	}
	err = t.im.r.records(table, size/relaSize, relaSize, func(_ uint64, entry []byte) (bool, error) {
		if le.Uint64(entry[16:]) == t.address {
			found = append(found, le.Uint64(entry))
		}
		return len(found) < maxCandidates, nil
	})
	return found, notBudget(err)
}

// isCode reports whether a range lies in one executable segment.
func (im *image) isCode(low, high uint64) bool {
	for _, s := range im.segments {
		if s.kind == uint32(elf.PT_LOAD) && s.flags&uint32(elf.PF_X) != 0 &&
			low >= s.address && low < high && high-s.address <= s.size {
			return true
		}
	}
	return false
}
