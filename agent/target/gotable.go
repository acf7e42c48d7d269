package target

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
)

// lineTable is the outline of a Go program's line table (runtime.pcHeader), which the linker writes into every program
// and strip keeps. Go 1.18 to 1.26 write it in this order:
//
//	header │ names, each ends with NUL │ ... │ functab: {entry, where its record is} × functions, end │ records
//
// An entry is the distance of a function from the text base, where its record is counts from the functab.
type lineTable struct {
	im        *image
	address   uint64 // where the program has it in memory
	functions uint64
	names     uint64 // file offset
	namesSize uint64
	functab   uint64 // file offset
}

var (
	errNoLineTable  = errors.New("its line table was not found")
	errOldLineTable = errors.New("it was built by Go 1.17 or earlier; the programs read Go 1.18 and later")
)

const (
	lineTableMagic   = 0xfffffff1 // Go 1.20 and later
	lineTableMagic18 = 0xfffffff0 // Go 1.18 and 1.19: the same layout
	lineTableMagic16 = 0xfffffffa
	lineTableMagic2  = 0xfffffffb
	lineTableHeader  = 72      // bytes
	lineTableText    = 24      // where the header says the text base
	maxFunctions     = 8 << 20 // the largest Go programs have about half a million
	functabEntry     = 8       // bytes
)

// lineTable finds the table by its section or, where the system's linker has put it among other data, by its header.
func (im *image) lineTable() (lineTable, error) {
	s, ok, err := im.named(".gopclntab", ".data.rel.ro.gopclntab")
	if err := notBudget(err); err != nil {
		return lineTable{}, err
	}
	if ok {
		return im.lineTableAt(s.offset)
	}
	var candidates []uint64
	for _, seg := range im.segments {
		if seg.kind != uint32(elf.PT_LOAD) || seg.flags&uint32(elf.PF_X) != 0 {
			continue
		}
		found, err := im.headersIn(seg)
		if err := notBudget(err); err != nil {
			return lineTable{}, err
		}
		candidates = append(candidates, found...)
	}
	for _, at := range candidates {
		if t, err := im.lineTableAt(at); err == nil || errors.Is(err, ErrBudget) {
			return t, err
		}
	}
	return lineTable{}, errNoLineTable
}

// headersIn looks for the first bytes of a header: magic, two zeros, instruction size, pointer size.
func (im *image) headersIn(seg segment) (found []uint64, err error) {
	const align, maxCandidates = 16, 16
	le := binary.LittleEndian
	first := (align - seg.offset%align) % align
	if first >= seg.size {
		return nil, nil
	}
	err = im.r.pieces(seg.offset+first, seg.size-first, 0, func(piece []byte, at uint64) bool {
		for i := 0; i+8 <= len(piece) && len(found) < maxCandidates; i += align {
			if w := le.Uint64(piece[i:]); w>>56 == 8 && w>>32&0xffff == 0 && isLineTableMagic(uint32(w)) {
				found = append(found, at+uint64(i))
			}
		}
		return len(found) < maxCandidates
	})
	return found, err
}

func isLineTableMagic(magic uint32) bool {
	return magic == lineTableMagic || magic == lineTableMagic18
}

func (im *image) lineTableAt(offset uint64) (lineTable, error) {
	head := make([]byte, lineTableHeader)
	if err := im.r.read(head, offset); err != nil {
		if errors.Is(err, ErrBudget) {
			return lineTable{}, err
		}
		return lineTable{}, errNoLineTable
	}
	le := binary.LittleEndian
	switch magic := le.Uint32(head); {
	case magic == lineTableMagic16 || magic == lineTableMagic2:
		return lineTable{}, errOldLineTable
	case !isLineTableMagic(magic) || head[4] != 0 || head[5] != 0 || head[7] != 8:
		return lineTable{}, fmt.Errorf("its line table has a format that is not known (%#x); it may be of a Go newer than 1.26", magic)
	}
	seg, ok := im.segmentAt(offset)
	if !ok {
		return lineTable{}, errNoLineTable
	}
	left := seg.offset + seg.size - offset
	t := lineTable{im: im, address: seg.address + (offset - seg.offset), functions: le.Uint64(head[8:])}
	names, namesEnd, functab := le.Uint64(head[32:]), le.Uint64(head[40:]), le.Uint64(head[64:])
	if names < lineTableHeader || namesEnd <= names || functab < namesEnd || functab >= left ||
		t.functions == 0 || t.functions > maxFunctions || t.functions*functabEntry+4 > left-functab {
		return lineTable{}, errors.New("its line table is damaged")
	}
	t.names, t.namesSize, t.functab = offset+names, namesEnd-names, offset+functab
	return t, nil
}

// segmentAt finds the loaded segment that holds a byte of the file.
func (im *image) segmentAt(offset uint64) (segment, bool) {
	for _, s := range im.segments {
		if s.kind == uint32(elf.PT_LOAD) && offset >= s.offset && offset-s.offset < s.size {
			return s, true
		}
	}
	return segment{}, false
}

// extent is where a function is, as distances from the text base.
type extent struct{ entry, end uint64 }

// find looks functions up by name: one pass over the names, and one over the functions.
func (t lineTable) find(names []string) (map[string]extent, error) {
	places, err := t.im.r.places(t.names, t.namesSize, names)
	if err != nil || len(places) == 0 {
		return nil, err
	}
	found, before := map[string]extent{}, ""
	le := binary.LittleEndian
	// The last entry has no record, and says where the last function ends. It is 4 bytes, so it is read apart.
	err = t.im.r.records(t.functab, t.functions, functabEntry, func(_ uint64, entry []byte) (bool, error) {
		start := uint64(le.Uint32(entry))
		if before != "" {
			found[before] = extent{found[before].entry, start}
			before = ""
		}
		if len(found) == len(names) {
			return false, nil
		}
		// A record begins with its entry, and then says where its name is.
		name, err := t.im.word(t.functab + uint64(le.Uint32(entry[4:])) + 4)
		if err != nil {
			return false, err
		}
		if n, ok := places[uint64(name)]; ok {
			found[n], before = extent{entry: start}, n
		}
		return true, nil
	})
	if err == nil && before != "" {
		var end uint32
		end, err = t.im.word(t.functab + t.functions*functabEntry)
		found[before] = extent{found[before].entry, uint64(end)}
	}
	return found, err
}
