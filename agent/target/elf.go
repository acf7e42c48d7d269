package target

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrNotELF says that a file is not a 64-bit little-endian ELF file, the only kind whose calls the programs can read.
var ErrNotELF = errors.New("not a 64-bit little-endian ELF file")

const (
	maxSegments = 128
	maxSections = 1024
	maxNotes    = 64 << 10 // bytes
	maxDynamic  = 512      // entries
)

// image is the outline of an ELF file (System V gABI, chapters 4 and 5).
type image struct {
	r           *bounded
	machine     elf.Machine
	segments    []segment
	sections    []section
	nameSection int // the section that holds the names of sections
}

type segment struct {
	kind                         uint32
	flags                        uint32
	offset, address, size, inMem uint64
}

type section struct {
	name                         uint32
	kind                         uint32
	link                         uint32
	address, offset, size, entry uint64
}

func openImage(r *bounded) (*image, error) {
	head := make([]byte, 64)
	if err := r.read(head, 0); err != nil {
		if errors.Is(err, ErrBudget) {
			return nil, err
		}
		return nil, ErrNotELF
	}
	if string(head[:4]) != elf.ELFMAG || head[elf.EI_CLASS] != byte(elf.ELFCLASS64) || head[elf.EI_DATA] != byte(elf.ELFDATA2LSB) {
		return nil, ErrNotELF
	}
	le := binary.LittleEndian
	im := &image{r: r, machine: elf.Machine(le.Uint16(head[18:])), nameSection: int(le.Uint16(head[62:]))}
	if err := im.readSegments(le.Uint64(head[32:]), int(le.Uint16(head[54:])), int(le.Uint16(head[56:]))); err != nil {
		return nil, fmt.Errorf("read program headers: %w", err)
	}
	// A stripped file may have no sections. What the dynamic linker needs is in the segments.
	if err := im.readSections(le.Uint64(head[40:]), int(le.Uint16(head[58:])), int(le.Uint16(head[60:]))); errors.Is(err, ErrBudget) {
		return nil, err
	}
	return im, nil
}

func (im *image) readSegments(at uint64, size, count int) error {
	if size != 56 || count == 0 || count > maxSegments {
		return fmt.Errorf("%w: %d program headers of %d bytes", ErrNotELF, count, size)
	}
	buf := make([]byte, size*count)
	if err := im.r.read(buf, at); err != nil {
		return err
	}
	le := binary.LittleEndian
	for ; len(buf) > 0; buf = buf[size:] {
		im.segments = append(im.segments, segment{
			kind: le.Uint32(buf), flags: le.Uint32(buf[4:]), offset: le.Uint64(buf[8:]),
			address: le.Uint64(buf[16:]), size: le.Uint64(buf[32:]), inMem: le.Uint64(buf[40:]),
		})
	}
	return nil
}

func (im *image) readSections(at uint64, size, count int) error {
	if at == 0 || size != 64 || count == 0 || count > maxSections {
		return nil
	}
	buf := make([]byte, size*count)
	if err := im.r.read(buf, at); err != nil {
		return err
	}
	le := binary.LittleEndian
	for ; len(buf) > 0; buf = buf[size:] {
		im.sections = append(im.sections, section{
			name: le.Uint32(buf), kind: le.Uint32(buf[4:]), address: le.Uint64(buf[16:]), offset: le.Uint64(buf[24:]),
			size: le.Uint64(buf[32:]), link: le.Uint32(buf[40:]), entry: le.Uint64(buf[56:]),
		})
	}
	return nil
}

// named finds the first section with one of these names.
func (im *image) named(names ...string) (section, bool, error) {
	if im.nameSection >= len(im.sections) {
		return section{}, false, nil
	}
	table := im.sections[im.nameSection]
	for _, s := range im.sections {
		for _, name := range names {
			same, err := im.r.isText(name, table.offset+uint64(s.name))
			if err != nil {
				return section{}, false, err
			}
			if same {
				return s, true, nil
			}
		}
	}
	return section{}, false, nil
}

// fileOffset turns an address into where its byte is in the file.
func (im *image) fileOffset(address uint64, executable bool) (uint64, bool) {
	for _, s := range im.segments {
		if s.kind != uint32(elf.PT_LOAD) || executable && s.flags&uint32(elf.PF_X) == 0 {
			continue
		}
		if address >= s.address && address-s.address < s.size {
			offset := address - s.address + s.offset
			return offset, offset >= s.offset
		}
	}
	return 0, false
}
