package call

import (
	"slices"
	"strings"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	shapeRows   = 256
	shapeFields = 32
)

// shapes remembers the keyed hash of bodies' structures. An endpoint answers with a few structures again and again; to
// compare one with what is remembered costs a tenth of sorting and hashing it. Paths and types are masked names.
type shapes struct {
	rows [shapeRows]*shaped
}

type shaped struct {
	fields []pathType
	hash   string
}

type pathType struct{ path, typ string }

// shape is the keyed hash of what fields a body has. It does not depend on their order.
func (d *Describer) shape(fields []*v1.Field) string {
	if len(fields) == 0 {
		return ""
	}
	if len(fields) > shapeFields {
		return d.hash(domainShape, structure(fields)...)
	}
	sum := uint32(len(fields))
	for _, f := range fields {
		sum = sum*31 + uint32(len(f.Path))<<8 + uint32(f.Path[len(f.Path)-1])<<3 + uint32(len(f.Type))
	}
	row := &d.shapes.rows[(sum^sum>>16)%shapeRows]
	if *row != nil && (*row).is(fields) {
		return (*row).hash
	}
	made := &shaped{fields: make([]pathType, len(fields)), hash: d.hash(domainShape, structure(fields)...)}
	for i, f := range fields {
		made.fields[i] = pathType{f.Path, f.Type}
	}
	*row = made
	return made.hash
}

func (s *shaped) is(fields []*v1.Field) bool {
	if len(s.fields) != len(fields) {
		return false
	}
	for i, f := range fields {
		if s.fields[i].path != f.Path || s.fields[i].typ != f.Type {
			return false
		}
	}
	return true
}

// structure lists paths and types in order of name.
func structure(fields []*v1.Field) []string {
	var room [shapeFields]*v1.Field
	sorted := append(room[:0], fields...)
	slices.SortFunc(sorted, func(a, b *v1.Field) int { return strings.Compare(a.Path, b.Path) })
	out := make([]string, 0, 2*len(fields))
	for _, f := range sorted {
		out = append(out, f.Path, f.Type)
	}
	return out
}
