package target

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// The automaton finds what a plain search finds, wherever the data is cut.
func FuzzFinder(f *testing.F) {
	f.Add([]byte("she shears his hers"), []byte("he\nshe\nhis\nhers\ns"), uint16(3))
	f.Add([]byte("aaaa"), []byte("a\naa\naaa\nb"), uint16(1))
	f.Fuzz(func(t *testing.T, data, list []byte, cut uint16) {
		var texts []string
		for text := range strings.SplitSeq(string(list), "\n") {
			if text != "" && len(text) < 100 && len(texts) < 100 {
				texts = append(texts, text)
			}
		}
		finder, ends := newFinder(texts), make([][]int, len(texts))
		state, at := uint16(0), 0
		for piece := range slices.Chunk(data, int(cut)+1) {
			state = finder.scan(state, piece, func(text uint16, end int) { ends[text] = append(ends[text], at+end) })
			at += len(piece)
		}
		for i, text := range texts {
			var want []int
			for from := range data {
				if bytes.HasPrefix(data[from:], []byte(text)) {
					want = append(want, from+len(text))
				}
			}
			if !slices.Equal(ends[i], want) {
				t.Errorf("%q in %q ends at %v, want %v", text, data, ends[i], want)
			}
		}
	})
}

// Any bytes as a file: an answer or an error, within the bound.
func FuzzSearch(f *testing.F) {
	for _, name := range []string{"/bin/true", "/proc/self/exe"} {
		if text, err := os.ReadFile(name); err == nil {
			f.Add(text[:min(len(text), 64<<10)])
		}
	}
	f.Add(elfFile(elf.ELFCLASS64, "ssl/statem/statem_lib.c", "ssl/statem/extensions.c"))
	f.Add(elfFile(elf.ELFCLASS32, "mbedtls_ssl_fetch_input"))
	list := stacks()
	finder := newFinder(marks(list))
	f.Fuzz(func(t *testing.T, file []byte) {
		s, err := newSearch(bytes.NewReader(file), uint64(len(file)), finder.texts, slow())
		if err != nil {
			return
		}
		if !s.advance(bytes.NewReader(file), finder, time.Now().Add(time.Minute)) {
			t.Fatal("not done in a minute")
		}
		if s.read > maxSearched+searchStep {
			t.Fatalf("read %d bytes", s.read)
		}
		for i, mark := range marks(list) {
			for _, end := range s.ends[i] {
				if !bytes.HasSuffix(file[:end], []byte(mark)) {
					t.Errorf("%q does not end at %d", mark, end)
				}
			}
		}
		carried(list, s)
		goForks(bytes.NewReader(file), s)
	})
}

// elfFile makes an ELF file with one read-only segment, as a packer that drops sections would.
func elfFile(class elf.Class, texts ...string) []byte {
	constants := strings.Join(texts, "\x00") + "\x00"
	file := make([]byte, 0x100)
	copy(file, elf.ELFMAG)
	file[elf.EI_CLASS], file[elf.EI_DATA], file[elf.EI_VERSION] = byte(class), byte(elf.ELFDATA2LSB), 1
	le := binary.LittleEndian
	if class == elf.ELFCLASS64 {
		le.PutUint16(file[16:], uint16(elf.ET_EXEC))
		le.PutUint16(file[18:], uint16(nativeMachine()))
		le.PutUint64(file[32:], 64)
		le.PutUint16(file[54:], 56)
		le.PutUint16(file[56:], 1)
		segment := file[64:]
		le.PutUint32(segment, uint32(elf.PT_LOAD))
		le.PutUint32(segment[4:], uint32(elf.PF_R))
		le.PutUint64(segment[8:], uint64(len(file)))
		le.PutUint64(segment[32:], uint64(len(constants)))
	}
	return append(file, constants...)
}

// sparse is a file whose every byte is the same: as large as its headers claim, without a block on disk.
type sparse struct{ head []byte }

func (e sparse) ReadAt(p []byte, at int64) (int, error) {
	clear(p)
	if at < int64(len(e.head)) {
		copy(p, e.head[at:])
	}
	return len(p), nil
}

func TestSearchIsBounded(t *testing.T) {
	head := elfFile(elf.ELFCLASS64)
	binary.LittleEndian.PutUint64(head[64+32:], 1<<50) // a segment of a pebibyte
	file := sparse{head}
	finder := newFinder(marks(stacks()))
	s, err := newSearch(file, 1<<50, finder.texts, slow())
	if err != nil {
		t.Fatal(err)
	}
	if s.limit != maxSearched {
		t.Errorf("limited to %d bytes", s.limit)
	}
	s.limit = 8 << 20
	if s.advance(file, finder, time.Now().Add(-time.Second)) || s.read != 0 {
		t.Fatalf("went on after the deadline: %d bytes", s.read)
	}
	if !s.advance(file, finder, time.Now().Add(time.Minute)) || !s.cut || s.read > s.limit+searchStep {
		t.Fatalf("cut %v, read %d", s.cut, s.read)
	}
}

// A search that is interrupted after every step ends like one that is not, also where a mark lies across two steps.
func TestSearchGoesOn(t *testing.T) {
	list := stacks()
	finder := newFinder(marks(list))
	filler := make([]byte, 3*searchStep)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range filler {
		filler[i] = byte(random.IntN(256))
	}
	for _, mark := range marks(list) {
		copy(filler[searchStep-len(mark)/2:], mark)
		file := elfFile(elf.ELFCLASS64, string(filler))
		s, err := newSearch(bytes.NewReader(file), uint64(len(file)), finder.texts, slow())
		if err != nil {
			t.Fatal(err)
		}
		for rounds := 0; ; rounds++ {
			// Every step outlasts the round.
			if s.advance(sluggish{bytes.NewReader(file)}, finder, time.Now().Add(time.Millisecond)) {
				break
			}
			if rounds > 100 {
				t.Fatal("it never ends")
			}
		}
		if i := slices.Index(marks(list), mark); len(s.ends[i]) != 1 {
			t.Errorf("%q across two steps is not seen", mark)
		}
	}
}

type sluggish struct{ io.ReaderAt }

func (s sluggish) ReadAt(p []byte, at int64) (int, error) {
	time.Sleep(2 * time.Millisecond)
	return s.ReaderAt.ReadAt(p, at)
}
