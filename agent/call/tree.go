package call

import (
	"github.com/spile/spile/proto/segment"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// Bounds of a description.
const (
	maxFields = 128
	maxNodes  = 1024
	maxDepth  = 16
)

type fieldType uint8

const (
	typeNone fieldType = iota
	typeString
	typeInteger
	typeNumber
	typeBoolean
	typeNull
	typeObject
	typeArray
)

var typeNames = [...]string{"", "string", "integer", "number", "boolean", "null", "object", "array"}

// tree collects the names of one place and what is known of their values. Nodes sit in one slice that is reused; a
// node's children are a linked list, searched from where the last search ended, because records repeat their names in
// the same order.
type tree struct {
	nodes  []node
	leaves int
	text   []byte
	plain  plain // names
	paths  plain // of fields
}

type node struct {
	name                     string
	parent, first, last      int32
	next, hint               int32
	kids                     int32
	typ                      fieldType
	traits                   traits
	class                    string
	hash                     string
	count, classified, bytes uint32
}

// element is the name of what an array holds.
const element = "[]"

func (t *tree) reset(root string) {
	clear(t.nodes)
	t.nodes = append(t.nodes[:0], node{name: root, parent: -1, first: -1, last: -1, next: -1, hint: -1})
	t.leaves = 0
}

// child returns the node of a name below at, made at need; -1 when the tree is full. The name is a value until it has
// been masked here. Past maxNames distinct names, and past maxFields fields, names fold to "*".
func (t *tree) child(at int32, name []byte) int32 {
	p := &t.nodes[at]
	// Records repeat their names in the same order: mostly it is the next one.
	if n := p.hint; n >= 0 && t.nodes[n].name == string(name) && t.nodes[n].name != element {
		p.hint = t.nodes[n].next
		return n
	}
	if n := t.find(p, string(name)); n >= 0 && t.nodes[n].name != element {
		return n
	}
	masked := t.mask(name)
	if n := t.find(p, masked); n >= 0 {
		return n
	}
	if p.kids >= maxNames || t.leaves >= maxFields {
		masked = segment.MaskOther
		if n := t.find(p, masked); n >= 0 {
			return n
		}
	}
	return t.add(at, masked, traitsOf(masked))
}

// mask returns a name as it may be told.
func (t *tree) mask(name []byte) string {
	if masked := t.plain.bytes(name, maskedName); masked != "" {
		return masked
	}
	return "{empty}"
}

// element returns the node of what the array at holds.
func (t *tree) element(at int32) int32 {
	if n := t.nodes[at].first; n >= 0 && t.nodes[n].name == element {
		return n
	}
	if n := t.find(&t.nodes[at], element); n >= 0 {
		return n
	}
	return t.add(at, element, t.nodes[at].traits)
}

func (t *tree) find(p *node, name string) int32 {
	start := p.hint
	if start < 0 {
		start = p.first
	}
	for n := start; n >= 0; n = t.nodes[n].next {
		if t.nodes[n].name == name {
			p.hint = t.nodes[n].next
			return n
		}
	}
	for n := p.first; n >= 0 && n != start; n = t.nodes[n].next {
		if t.nodes[n].name == name {
			p.hint = t.nodes[n].next
			return n
		}
	}
	return -1
}

func (t *tree) add(at int32, name string, tr traits) int32 {
	if len(t.nodes) >= maxNodes {
		return -1
	}
	n := int32(len(t.nodes))
	t.nodes = append(t.nodes, node{name: name, parent: at, first: -1, last: -1, next: -1, hint: -1, traits: tr})
	p := &t.nodes[at]
	if p.last >= 0 {
		t.nodes[p.last].next = n
	} else {
		p.first = n
	}
	p.last = n
	p.kids++
	t.leaves++
	if p.kids == 1 && at > 0 && p.typ != typeString {
		t.leaves-- // the parent is no field any more
	}
	return n
}

// see notes that a value of a type passed at n.
func (t *tree) see(n int32, typ fieldType, bytes int) *node {
	f := &t.nodes[n]
	if f.count == 0 {
		f.bytes = uint32(bytes)
	}
	f.count++
	f.typ = widen(f.typ, typ)
	return f
}

// widen merges the types that one field was seen with: integers and numbers are numbers, null is any type, and else the
// first type stays.
func widen(a, b fieldType) fieldType {
	switch {
	case a == typeNone, a == typeNull:
		return b
	case a == typeInteger && b == typeNumber:
		return typeNumber
	}
	return a
}

// fields appends the leaves as fields, in the order in which their names were first seen, at most maxFields of them.
func (t *tree) fields(out []*v1.Field) []*v1.Field {
	left := 0
	for i := range t.nodes {
		if t.nodes[i].isField() {
			left++
		}
	}
	left = min(left, maxFields)
	for i := range t.nodes {
		f := &t.nodes[i]
		if !f.isField() {
			continue
		}
		if left == 0 {
			break
		}
		count := f.count
		if f.class != "" {
			count = f.classified
		}
		var field *v1.Field
		if len(out) == cap(out) {
			out, field = appendFields(out, left)
		} else {
			out, field = addField(out)
		}
		left--
		*field = v1.Field{Path: t.path(int32(i)), Type: typeNames[f.typ], Class: f.class, Hash: f.hash, Length: f.bytes, Count: count}
	}
	return out
}

// isField: a value, or a container that was seen empty only.
func (f *node) isField() bool {
	return f.typ != typeNone && (f.kids == 0 || f.typ < typeObject)
}

// path is the node's name from the root: "body.items[].id".
func (t *tree) path(n int32) string {
	var up [maxDepth + 2]int32
	depth := 0
	for ; n >= 0 && depth < len(up); n = t.nodes[n].parent {
		up[depth] = n
		depth++
	}
	b := t.text[:0]
	for i := depth - 1; i >= 0; i-- {
		name := t.nodes[up[i]].name
		if len(b) > 0 && name != element {
			b = append(b, '.')
		}
		b = append(b, name...)
	}
	t.text = b
	return t.paths.bytes(b, asIs)
}
