package columns

// numbered is a text and its number in the batch.
type numbered struct {
	text  string
	index uint32
}

// dictionary numbers distinct serialized messages from 1; 0 is an absent message.
type dictionary struct {
	index   map[string]uint32
	entries [][]byte
}

func (d *dictionary) put(b []byte) (i uint32, first bool) {
	if i, ok := d.index[string(b)]; ok {
		return i, false
	}
	key := string(b)
	d.entries = append(d.entries, []byte(key))
	i = uint32(len(d.entries))
	d.index[key] = i
	return i, true
}

func (d *dictionary) reset() {
	clear(d.index)
	clear(d.entries)
	d.entries = d.entries[:0]
}
