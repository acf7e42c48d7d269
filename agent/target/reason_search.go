package target

import (
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"time"
)

// finder looks for many texts in one pass over a file, whatever their number (Aho and Corasick 1975). Its state is a
// number, so a search can stop anywhere and go on later.
type finder struct {
	next  [][256]uint16 // state, byte → state
	found [][]uint16    // state → texts that end here
	texts int
}

func newFinder(texts []string) *finder {
	f := &finder{next: make([][256]uint16, 1), found: make([][]uint16, 1), texts: len(texts)}
	for i, text := range texts {
		state := uint16(0)
		for _, c := range []byte(text) {
			if f.next[state][c] == 0 {
				f.next[state][c] = uint16(len(f.next))
				f.next = append(f.next, [256]uint16{})
				f.found = append(f.found, nil)
			}
			state = f.next[state][c]
		}
		f.found[state] = append(f.found[state], uint16(i))
	}
	// In order of length: where a text breaks off, its longest end that begins another text goes on.
	shorter := make([]uint16, len(f.next))
	queue := make([]uint16, 0, len(f.next))
	for _, to := range f.next[0] {
		if to != 0 {
			queue = append(queue, to)
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		state := queue[0]
		other := shorter[state]
		f.found[state] = append(f.found[state], f.found[other]...)
		for c, to := range f.next[state] {
			if to == 0 {
				f.next[state][c] = f.next[other][c]
				continue
			}
			shorter[to] = f.next[other][c]
			queue = append(queue, to)
		}
	}
	return f
}

// scan goes on from a state through data, and tells hit of each text that it finds and where in data it ends.
func (f *finder) scan(state uint16, data []byte, hit func(text uint16, end int)) uint16 {
	for at, c := range data {
		state = f.next[state][c]
		if f.found[state] == nil {
			continue
		}
		for _, i := range f.found[state] {
			hit(i, at+1)
		}
	}
	return state
}

// span is a part of a file.
type span struct{ offset, size uint64 }

const (
	// maxSearched bounds one file. The constants of browsers and runtimes, the largest there are, are 20 to 60 MiB.
	maxSearched = 256 << 20
	searchStep  = 256 << 10
	maxMarks    = 8 // of one text
)

// search is a pass over the constants of one file. Where the file is large it takes several rounds.
type search struct {
	todo   []span
	state  uint16
	ends   [][]uint64 // text → where in the file it ends, the first few
	read   uint64
	narrow bool // a 32-bit file
	packed bool // by UPX: what runs is not in the file as such
	limit  uint64
	cut    bool // the limit ended it
}

// newSearch plans where to look: in the constants of a 64-bit file, and in all of a 32-bit one.
func newSearch(r io.ReaderAt, size uint64, texts int, b Budget) (*search, error) {
	s := &search{ends: make([][]uint64, texts), limit: maxSearched}
	head := make([]byte, 1<<10)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if s.narrow = isNarrow(head[:n]); s.narrow {
		s.todo = []span{{0, size}}
		return s, nil
	}
	// UPX puts its mark behind the program headers (struct l_info of its loader).
	s.packed = bytes.Contains(head[:n], []byte("UPX!"))
	im, err := openImage(newBounded(r, b))
	if err != nil {
		return nil, err
	}
	s.todo, err = im.constants()
	return s, err
}

// isNarrow reports whether a file begins like a 32-bit ELF file.
func isNarrow(head []byte) bool {
	return len(head) > elf.EI_CLASS && string(head[:4]) == elf.ELFMAG && head[elf.EI_CLASS] == byte(elf.ELFCLASS32)
}

// constants lists where a file keeps its texts, and its names of functions where it has some.
func (im *image) constants() ([]span, error) {
	var found []span
	whole := false
	if im.nameSection < len(im.sections) {
		names := im.sections[im.nameSection]
		for _, s := range im.sections {
			if s.kind != uint32(elf.SHT_PROGBITS) && s.kind != uint32(elf.SHT_STRTAB) {
				continue
			}
			for _, name := range []string{".rodata", ".lrodata", ".gopclntab", ".data.rel.ro.gopclntab", ".strtab"} {
				same, err := im.r.isText(name, names.offset+uint64(s.name))
				if err != nil {
					return nil, err
				}
				if same {
					found = append(found, span{s.offset, s.size})
					whole = whole || name == ".rodata"
				}
			}
		}
	}
	if whole {
		return found, nil
	}
	// Without sections the linker's segments are left; constants stand in those that nobody writes to.
	found = nil
	for _, s := range im.segments {
		if s.kind == uint32(elf.PT_LOAD) && s.flags&uint32(elf.PF_W) == 0 {
			found = append(found, span{s.offset, s.size})
		}
	}
	return found, nil
}

// advance searches on until the deadline, and reports whether it came to the end.
func (s *search) advance(r io.ReaderAt, f *finder, deadline time.Time) bool {
	buf := make([]byte, searchStep)
	for len(s.todo) > 0 {
		part := &s.todo[0]
		if part.size == 0 || part.offset > 1<<62 {
			s.todo, s.state = s.todo[1:], 0 // a text does not go on in another part
			continue
		}
		if s.read >= s.limit {
			s.todo, s.cut = nil, true
			break
		}
		if time.Now().After(deadline) {
			return false
		}
		n, err := r.ReadAt(buf[:min(part.size, uint64(len(buf)))], int64(part.offset))
		s.state = f.scan(s.state, buf[:n], func(text uint16, end int) {
			if len(s.ends[text]) < maxMarks {
				s.ends[text] = append(s.ends[text], part.offset+uint64(end))
			}
		})
		s.read += uint64(n)
		part.offset += uint64(n)
		part.size -= uint64(n)
		if err != nil {
			part.size = 0 // the file is shorter than it says
		}
	}
	return true
}
