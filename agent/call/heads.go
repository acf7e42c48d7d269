package call

import (
	"strings"

	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/proto/segment"
)

const (
	headRows     = 128
	maxHeadNames = 48
	maxHeadName  = 48
)

// heads remembers what the names of header blocks come to. A client sends the same names in the same order with every
// request, and so does a server with its answers, so that most blocks are known by a comparison of names. Only blocks of
// names that masking leaves as they are are remembered: a name may be a value, too.
type heads struct {
	rows  [headRows]*head
	other head // a block that is not remembered
}

// head is what the names of a header block tell.
type head struct {
	raw    []string // as they came, in wire order
	names  []string // distinct, in wire order, masked; past maxNames they fold to "*". Read only: calls share it
	traits []traits // of each that came
	safe   []int    // places of those whose values may be told
	// Places of the first of these, -1 = there is none.
	contentType, contentEncoding, authorization int
	cookies                                     bool // cookie or set-cookie is among them
}

// of looks at the names of a block. What it returns holds until the next call.
func (h *heads) of(header []parse.Field) *head {
	sum, plain := uint32(len(header)), len(header) <= maxHeadNames
	for i := range header {
		name := header[i].Name
		n := uint32(len(name))
		if n == 0 || n > maxHeadName {
			plain = false
			continue
		}
		sum = sum*31 + n<<16 + uint32(name[0])<<8 + uint32(name[n-1])
	}
	if !plain {
		h.other.read(header)
		return &h.other
	}
	row := &h.rows[(sum^sum>>16)%headRows]
	if *row != nil && (*row).is(header) {
		return *row
	}
	if !h.other.read(header) {
		return &h.other
	}
	made := h.other
	h.other = head{}
	for i, name := range made.raw {
		made.raw[i] = strings.Clone(name) // a piece of the whole head, whose values are not to be kept
	}
	*row = &made
	return &made
}

func (h *head) is(header []parse.Field) bool {
	if len(h.raw) != len(header) {
		return false
	}
	for i, name := range h.raw {
		if name != header[i].Name {
			return false
		}
	}
	return true
}

// read fills h, and reports whether masking left all names as they are.
func (h *head) read(header []parse.Field) (plain bool) {
	*h = head{
		raw: h.raw[:0], traits: h.traits[:0], safe: h.safe[:0], contentType: -1, contentEncoding: -1, authorization: -1,
	}
	if len(header) > 0 {
		h.names = make([]string, 0, min(len(header), maxNames+1))
	}
	plain = true
	for i := range header {
		raw := header[i].Name
		h.raw, h.traits = append(h.raw, raw), append(h.traits, traitsOf(raw))
		if safeHeaders[raw] != nil {
			h.safe = append(h.safe, i)
		}
		switch raw {
		case "content-type":
			first(&h.contentType, i)
		case "content-encoding":
			first(&h.contentEncoding, i)
		case authorizationName:
			first(&h.authorization, i)
		case "cookie", "set-cookie":
			h.cookies = true
		}
		name := headerName(raw)
		plain = plain && name == raw
		switch {
		case contains(h.names, name):
		case len(h.names) < maxNames:
			h.names = append(h.names, name)
		case len(h.names) == maxNames:
			h.names = append(h.names, segment.MaskOther)
		}
	}
	return plain
}

func first(place *int, i int) {
	if *place < 0 {
		*place = i
	}
}

// value is that of the field at a place, "" where there is none.
func (h *head) value(header []parse.Field, place int) string {
	if place < 0 {
		return ""
	}
	return header[place].Value
}

// headerName is a header's name, lower case and masked. It is no piece of the head that it came in.
func headerName(raw string) string {
	if name, ok := commonNames[raw]; ok {
		return name
	}
	name := clean(segment.MaskHeaderName(raw))
	if low := strings.ToLower(name); low != name {
		return low
	}
	return strings.Clone(name)
}
