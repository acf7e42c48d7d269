package target

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
)

// dynamic is what the dynamic linker knows: where symbols, their names and their hash table are, as file offsets.
type dynamic struct {
	symbols, names, gnuHash, sysvHash uint64
	namesSize                         uint64
}

const (
	dynamicHash    = 4
	dynamicStrings = 5
	dynamicSymbols = 6
	dynamicSize    = 10
	dynamicGNUHash = 0x6ffffef5
	symbolSize     = 24
	maxChain       = 1 << 16 // symbols looked at in one hash chain
)

// dynamicEntries visits the entries of PT_DYNAMIC (gABI chapter 5).
func (im *image) dynamicEntries(visit func(tag, value uint64)) error {
	for _, s := range im.segments {
		if s.kind != uint32(elf.PT_DYNAMIC) {
			continue
		}
		return im.r.records(s.offset, min(s.size/16, maxDynamic), 16, func(_ uint64, entry []byte) (bool, error) {
			tag := binary.LittleEndian.Uint64(entry)
			if tag != 0 {
				visit(tag, binary.LittleEndian.Uint64(entry[8:]))
			}
			return tag != 0, nil
		})
	}
	return nil
}

func (im *image) dynamic() (dynamic, bool, error) {
	var d dynamic
	err := im.dynamicEntries(func(tag, value uint64) {
		offset, _ := im.fileOffset(value, false)
		switch tag {
		case dynamicHash:
			d.sysvHash = offset
		case dynamicStrings:
			d.names = offset
		case dynamicSymbols:
			d.symbols = offset
		case dynamicSize:
			d.namesSize = value
		case dynamicGNUHash:
			d.gnuHash = offset
		}
	})
	return d, d.symbols != 0 && d.names != 0, err
}

// function is what a symbol table says of one.
type function struct {
	address uint64
	offset  uint64 // of its entry in the file
	size    uint64 // bytes; 0 = not said
}

// exported looks functions up as the dynamic linker does, by hash: a few reads each, whatever the size of the table.
// Functions that are not there are absent.
func (im *image) exported(names []string) (map[string]function, error) {
	found := map[string]function{}
	d, ok, err := im.dynamic()
	if err != nil || !ok {
		return found, notBudget(err)
	}
	for _, name := range names {
		var f function
		var there bool
		switch {
		case d.gnuHash != 0:
			f, there, err = im.byGNUHash(d, name)
		case d.sysvHash != 0:
			f, there, err = im.bySysVHash(d, name)
		}
		if err := notBudget(err); err != nil {
			return nil, err
		}
		if there {
			found[name] = f
		}
	}
	return found, nil
}

// notBudget forgives a table that leads nowhere: then the symbol is not there. A spent budget is not forgiven.
func notBudget(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (im *image) word(offset uint64) (uint32, error) {
	var b [4]byte
	err := im.r.read(b[:], offset)
	return binary.LittleEndian.Uint32(b[:]), err
}

// byGNUHash follows the DT_GNU_HASH layout of binutils: header, bloom filter, buckets, chains.
func (im *image) byGNUHash(d dynamic, name string) (function, bool, error) {
	head := make([]byte, 16)
	if err := im.r.read(head, d.gnuHash); err != nil {
		return function{}, false, err
	}
	le := binary.LittleEndian
	buckets, first, bloom := le.Uint32(head), le.Uint32(head[4:]), le.Uint32(head[8:])
	if buckets == 0 {
		return function{}, false, nil
	}
	bucketsAt := d.gnuHash + 16 + uint64(bloom)*8
	chainsAt := bucketsAt + uint64(buckets)*4
	want := gnuHash(name)
	index, err := im.word(bucketsAt + uint64(want%buckets)*4)
	if err != nil || index < first {
		return function{}, false, err
	}
	for n := 0; n < maxChain; n++ {
		hash, err := im.word(chainsAt + uint64(index-first)*4)
		if err != nil {
			return function{}, false, err
		}
		if hash|1 == want|1 {
			if f, ok, err := im.functionAt(d.symbols+uint64(index)*symbolSize, d.names, name); ok || err != nil {
				return f, ok, err
			}
		}
		if hash&1 == 1 {
			break
		}
		index++
	}
	return function{}, false, nil
}

func gnuHash(name string) uint32 {
	h := uint32(5381)
	for i := 0; i < len(name); i++ {
		h = h*33 + uint32(name[i])
	}
	return h
}

// bySysVHash follows DT_HASH (gABI chapter 5), which musl and old linkers emit.
func (im *image) bySysVHash(d dynamic, name string) (function, bool, error) {
	buckets, err := im.word(d.sysvHash)
	if err != nil || buckets == 0 {
		return function{}, false, err
	}
	h := uint32(0)
	for i := 0; i < len(name); i++ {
		h = h<<4 + uint32(name[i])
		h = (h ^ h>>24&0xf0) & 0x0fffffff
	}
	index, err := im.word(d.sysvHash + 8 + uint64(h%buckets)*4)
	for n := 0; n < maxChain && index != 0 && err == nil; n++ {
		if f, ok, err := im.functionAt(d.symbols+uint64(index)*symbolSize, d.names, name); ok || err != nil {
			return f, ok, err
		}
		index, err = im.word(d.sysvHash + 8 + uint64(buckets)*4 + uint64(index)*4)
	}
	return function{}, false, err
}

// functionAt reads one symbol and reports where its code is, if it is a defined function of that name.
func (im *image) functionAt(symbol, names uint64, name string) (function, bool, error) {
	entry := make([]byte, symbolSize)
	if err := im.r.read(entry, symbol); err != nil {
		return function{}, false, err
	}
	le := binary.LittleEndian
	// An IFUNC is chosen at run time and its value is only the chooser.
	if elf.ST_TYPE(entry[4]) != elf.STT_FUNC || le.Uint16(entry[6:]) == uint16(elf.SHN_UNDEF) {
		return function{}, false, nil
	}
	if same, err := im.r.isText(name, names+uint64(le.Uint32(entry))); !same || err != nil {
		return function{}, false, err
	}
	f, ok := im.function(entry)
	return f, ok, nil
}

// function places the function of an entry of a symbol table.
func (im *image) function(entry []byte) (function, bool) {
	f := function{address: binary.LittleEndian.Uint64(entry[8:]), size: binary.LittleEndian.Uint64(entry[16:])}
	var ok bool
	f.offset, ok = im.fileOffset(f.address, true)
	return f, ok
}

// linked looks functions up in .symtab, which only files that were not stripped have. The names are searched first, so
// that the symbols can be streamed by number, without a random read for each.
func (im *image) linked(names []string) (map[string]function, error) {
	found := map[string]function{}
	for _, s := range im.sections {
		if s.kind != uint32(elf.SHT_SYMTAB) || s.entry != symbolSize || int(s.link) >= len(im.sections) {
			continue
		}
		table := im.sections[s.link]
		places, err := im.r.places(table.offset, table.size, names)
		if err := notBudget(err); err != nil {
			return nil, err
		}
		if len(places) == 0 {
			continue
		}
		le := binary.LittleEndian
		err = im.r.records(s.offset, s.size/symbolSize, symbolSize, func(_ uint64, entry []byte) (bool, error) {
			name, ok := places[uint64(le.Uint32(entry))]
			if !ok || elf.ST_TYPE(entry[4]) != elf.STT_FUNC || le.Uint16(entry[6:]) == uint16(elf.SHN_UNDEF) {
				return true, nil
			}
			if f, ok := im.function(entry); ok {
				found[name] = f
			}
			return len(found) < len(names), nil
		})
		if err := notBudget(err); err != nil {
			return nil, err
		}
	}
	return found, nil
}
