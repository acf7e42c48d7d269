package http2

import (
	"errors"

	"golang.org/x/net/http2/hpack"
)

// errCompression is a block that breaks RFC 7541; the decoder's state is worth nothing from there on.
var errCompression = errors.New("header compression is broken")

const (
	initialTable = 4096     // SETTINGS_HEADER_TABLE_SIZE before any settings (RFC 9113 §6.5.2)
	keptTable    = 64 << 10 // the most that is kept of a table
	entryCost    = 32       // of an entry beside its bytes (RFC 7541 §4.1)
)

// entry of the dynamic table. Behind a late join, a literal may name an index that was never seen.
type entry struct {
	name, value string
	known       bool
}

func (e entry) cost() int { return len(e.name) + len(e.value) + entryCost }

// decoder reads header blocks of one direction.
//
// A decoder that saw every block from the first knows the whole table. One that did not (partial) knows only what was
// inserted since: dynamic indices count from the newest entry, so an index within those inserted since is certain,
// whatever the real table holds, and any other is unknown. x/net's decoder takes an unknown index for an error, so
// it can't be used behind a late join.
type decoder struct {
	entries []entry // oldest first
	first   int     // of entries that is still in the table
	size    int     // of the table in bytes
	max     int     // that the encoder chose
	limit   uint64  // that the other end allows
	partial bool
	updates int // size updates in the last block
}

func newDecoder(partial bool) decoder {
	d := decoder{max: initialTable, limit: initialTable, partial: partial}
	if partial {
		d.max, d.limit = keptTable, 1<<32
	}
	return d
}

// decode reads one block. emit gets each field; known is false where name or value could not be resolved.
func (d *decoder) decode(b []byte, emit func(name, value string, known bool)) error {
	d.updates = 0
	for fields := 0; len(b) > 0; {
		if b[0]&0xe0 == 0x20 { // table size update, before the first field only (RFC 7541 §4.2)
			d.updates++
			n, rest, ok := integer(b, 5)
			if !ok || n > d.limit || fields > 0 {
				return errCompression
			}
			b = rest
			d.max = int(min(n, 1<<30))
			d.evict(0)
			continue
		}
		fields++
		e, rest, insert, err := d.field(b)
		if err != nil {
			return err
		}
		b = rest
		if insert {
			d.insert(e)
		}
		emit(e.name, e.value, e.known)
	}
	return nil
}

// field reads one representation (RFC 7541 §6.1, 6.2).
func (d *decoder) field(b []byte) (e entry, rest []byte, insert bool, err error) {
	prefix := 4 // without indexing, or never indexed
	switch {
	case b[0]&0x80 != 0:
		n, rest, ok := integer(b, 7)
		if !ok || n == 0 {
			return e, nil, false, errCompression
		}
		e, err = d.at(n)
		return e, rest, false, err
	case b[0]&0xc0 == 0x40:
		prefix, insert = 6, true
	}
	n, rest, ok := integer(b, prefix)
	if !ok {
		return e, nil, false, errCompression
	}
	e.known = true
	if n > 0 {
		if e, err = d.at(n); err != nil {
			return e, nil, false, err
		}
	} else if e.name, rest, ok = text(rest); !ok {
		return e, nil, false, errCompression
	}
	if e.value, rest, ok = text(rest); !ok {
		return e, nil, false, errCompression
	}
	return e, rest, insert, nil
}

// at resolves an index.
func (d *decoder) at(n uint64) (entry, error) {
	if n <= staticEntries {
		name, value := static(n)
		return entry{name, value, true}, nil
	}
	n -= staticEntries
	if n <= uint64(len(d.entries)-d.first) {
		return d.entries[len(d.entries)-int(n)], nil
	}
	if d.partial {
		return entry{}, nil
	}
	return entry{}, errCompression
}

func (d *decoder) insert(e entry) {
	cost := e.cost()
	d.evict(cost)
	if cost > min(d.max, keptTable) {
		if cost <= d.max {
			// The encoder has it, we do not: all older indices are off, all newer ones are certain.
			d.partial = true
		}
		return
	}
	if d.first > 64 && d.first > len(d.entries)/2 {
		n := copy(d.entries, d.entries[d.first:])
		clear(d.entries[n:])
		d.entries, d.first = d.entries[:n], 0
	}
	d.entries = append(d.entries, e)
	d.size += cost
}

// evict makes room for an entry of that cost.
func (d *decoder) evict(cost int) {
	for d.size > 0 && d.size+cost > min(d.max, keptTable) {
		if d.size+cost <= d.max {
			d.partial = true // the encoder keeps it
		}
		d.size -= d.entries[d.first].cost()
		d.entries[d.first] = entry{}
		d.first++
	}
}

// integer reads RFC 7541 §5.1.
func integer(b []byte, prefix int) (n uint64, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	mask := uint64(1)<<prefix - 1
	n = uint64(b[0]) & mask
	b = b[1:]
	if n < mask {
		return n, b, true
	}
	for shift := 0; shift < 56 && len(b) > 0; shift += 7 {
		c := b[0]
		b = b[1:]
		n += uint64(c&0x7f) << shift
		if c&0x80 == 0 {
			return n, b, true
		}
	}
	return 0, nil, false
}

// text reads a string literal (RFC 7541 §5.2). Huffman code grows bytes by 8/5 at most, so the block bounds it.
func text(b []byte) (s string, rest []byte, ok bool) {
	n, rest, ok := integer(b, 7)
	if !ok || n > uint64(len(rest)) {
		return "", nil, false
	}
	raw := rest[:n]
	rest = rest[n:]
	if b[0]&0x80 == 0 {
		return string(raw), rest, true
	}
	s, err := hpack.HuffmanDecodeToString(raw)
	return s, rest, err == nil
}
