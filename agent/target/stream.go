package target

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// pieceSize is how much of a table is looked at at once: 64 KiB, whatever the size of the table.
const pieceSize = 64 << 10

// pieces hands on a range of the file in pieces that overlap by so many bytes, until visit says that it has seen enough.
func (b *bounded) pieces(offset, size uint64, overlap int, visit func(piece []byte, at uint64) (more bool)) error {
	buf := make([]byte, pieceSize+overlap)
	for at := uint64(0); at < size; at += pieceSize {
		if err := b.onTime(); err != nil {
			return err
		}
		piece := buf[:min(uint64(len(buf)), size-at)]
		if err := b.read(piece, offset+at); err != nil {
			return err
		}
		if !visit(piece, offset+at) {
			return nil
		}
	}
	return nil
}

// records hands on a table of entries of one size, until visit says that it has seen enough.
func (b *bounded) records(offset, count uint64, size int, visit func(index uint64, record []byte) (more bool, err error)) error {
	perPiece := uint64(pieceSize / size)
	buf := make([]byte, min(perPiece, count)*uint64(size))
	for first := uint64(0); first < count; first += perPiece {
		if err := b.onTime(); err != nil {
			return err
		}
		n := min(perPiece, count-first)
		if err := b.read(buf[:n*uint64(size)], offset+first*uint64(size)); err != nil {
			return err
		}
		for i := range n {
			if more, err := visit(first+i, buf[i*uint64(size):][:size]); !more || err != nil {
				return err
			}
		}
	}
	return nil
}

// maxPlaces bounds how often one name is found in a table of names; linkers write each name once or twice.
const maxPlaces = 64

// places finds where each name stands in a table of NUL-terminated names, as offsets into the table. It also finds a name
// that is the end of a longer one, because linkers let names share their ends.
func (b *bounded) places(offset, size uint64, names []string) (map[uint64]string, error) {
	found := map[uint64]string{}
	longest := 0
	wanted := make([][]byte, len(names))
	for i, name := range names {
		wanted[i] = append([]byte(name), 0)
		longest = max(longest, len(wanted[i]))
	}
	counts := make([]int, len(names))
	err := b.pieces(offset, size, longest, func(piece []byte, at uint64) bool {
		for i, want := range wanted {
			for from := 0; counts[i] < maxPlaces; {
				n := bytes.Index(piece[from:], want)
				if n < 0 {
					break
				}
				place := at - offset + uint64(from+n)
				if _, again := found[place]; !again {
					counts[i]++
				}
				found[place] = names[i]
				from += n + 1
			}
		}
		return true
	})
	return found, err
}

const (
	dynamicRela     = 7
	dynamicRelaSize = 8
	relaSize        = 24
)

// pointers reads addresses as they are before the program is loaded. In position-independent programs some linkers leave
// them to the relocations that the dynamic linker applies; then the addend is the value. 0 = there is none.
func (im *image) pointers(addresses ...uint64) ([]uint64, error) {
	values := make([]uint64, len(addresses))
	open := map[uint64]int{}
	for i, address := range addresses {
		offset, ok := im.fileOffset(address, false)
		if !ok {
			continue
		}
		var word [8]byte
		if err := im.r.read(word[:], offset); err != nil {
			return nil, err
		}
		if values[i] = binary.LittleEndian.Uint64(word[:]); values[i] == 0 {
			open[address] = i
		}
	}
	if len(open) == 0 {
		return values, nil
	}
	table, size, err := im.relocations()
	if err != nil {
		return nil, err
	}
	relative := uint64(elf.R_X86_64_RELATIVE)
	if im.machine == elf.EM_AARCH64 {
		relative = uint64(elf.R_AARCH64_RELATIVE)
	}
	le := binary.LittleEndian
	err = im.r.records(table, size/relaSize, relaSize, func(_ uint64, entry []byte) (bool, error) {
		if i, ok := open[le.Uint64(entry)]; ok && le.Uint64(entry[8:]) == relative {
			values[i] = le.Uint64(entry[16:])
			delete(open, addresses[i])
		}
		return len(open) > 0, nil
	})
	return values, err
}

// relocations finds the table of relocations with addends, as the dynamic linker does.
func (im *image) relocations() (offset, size uint64, err error) {
	err = im.dynamicEntries(func(tag, value uint64) {
		switch tag {
		case dynamicRela:
			offset, _ = im.fileOffset(value, false)
		case dynamicRelaSize:
			size = value
		}
	})
	if offset == 0 {
		return 0, 0, err
	}
	return offset, size, err
}
