// Package line is the one form in which Spile's messages are text: a JSON object on one line.
//
// It differs from protobuf's own JSON mapping in what people and log pipelines stumble over:
//
//	names       snake_case, in the order of field numbers; maps by key
//	integers    numbers, 64-bit ones too
//	absent      left out; an optional field that is set is printed even when it is 0 or ""
//	enums       lower-case words without the type's name: "both"
//	timestamps  RFC 3339 in UTC, with six decimals where there is less than a second
//	durations   seconds with six decimals: "0.002100s"
//	bytes       base64
//
// A line holds no raw control character and no invalid UTF-8, so one line is one record whatever a
// client put into its request. Unmarshal reads these lines back and what people write by hand: any
// order and precision, unknown keys ignored. Depth and size are bounded.
//
// Below microseconds a time is cut off; everything else survives Append and Unmarshal unchanged.
package line

import (
	"slices"
	"strings"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// plan is what printing and reading one type of message needs, worked out once.
type plan struct {
	fields []field
	byName map[string]*field
	// wellKnown is set for messages that are one JSON string.
	wellKnown kind
}

type kind uint8

const (
	plain kind = iota
	timestamp
	duration
)

type field struct {
	desc  protoreflect.FieldDescriptor
	kind  protoreflect.Kind
	key   string // `"name":`
	list  bool
	isMap bool
	msg   *plan // of a message field or a map's message values
	words map[protoreflect.EnumNumber]string
	enums map[string]protoreflect.EnumNumber
}

// plans covers every message of spile.v1. It is built once and never written again.
var plans = buildPlans(v1.File_spile_v1_call_proto, v1.File_spile_v1_ingest_proto, v1.File_spile_v1_query_proto)

type planTable map[protoreflect.FullName]*plan

func buildPlans(files ...protoreflect.FileDescriptor) planTable {
	t := planTable{}
	for _, f := range files {
		for i := range f.Messages().Len() {
			t.plan(f.Messages().Get(i))
		}
	}
	return t
}

// planOf also serves messages from other packages, at the price of planning them each time.
func planOf(d protoreflect.MessageDescriptor) *plan {
	if p := plans[d.FullName()]; p != nil {
		return p
	}
	return planTable{}.plan(d)
}

func (t planTable) plan(d protoreflect.MessageDescriptor) *plan {
	if p := t[d.FullName()]; p != nil {
		return p
	}
	p := &plan{byName: map[string]*field{}}
	t[d.FullName()] = p // Before its fields, which may be of the same type.
	switch d.FullName() {
	case "google.protobuf.Timestamp":
		p.wellKnown = timestamp
	case "google.protobuf.Duration":
		p.wellKnown = duration
	}
	p.fields = make([]field, 0, d.Fields().Len())
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		f := field{desc: fd, kind: fd.Kind(), key: `"` + string(fd.Name()) + `":`, list: fd.IsList(), isMap: fd.IsMap()}
		value := fd
		if f.isMap {
			value = fd.MapValue()
			f.kind = value.Kind()
		}
		if value.Message() != nil {
			f.msg = t.plan(value.Message())
		}
		if e := value.Enum(); e != nil {
			f.words, f.enums = enumWords(e)
		}
		p.fields = append(p.fields, f)
	}
	slices.SortFunc(p.fields, func(a, b field) int { return int(a.desc.Number()) - int(b.desc.Number()) })
	for i := range p.fields {
		p.byName[string(p.fields[i].desc.Name())] = &p.fields[i]
	}
	return p
}

// enumWords turns OBSERVED_BOTH of enum Observed into "both".
func enumWords(e protoreflect.EnumDescriptor) (map[protoreflect.EnumNumber]string, map[string]protoreflect.EnumNumber) {
	words, numbers := map[protoreflect.EnumNumber]string{}, map[string]protoreflect.EnumNumber{}
	prefix := screamingSnake(string(e.Name())) + "_"
	for i := range e.Values().Len() {
		v := e.Values().Get(i)
		word := strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix))
		if _, ok := words[v.Number()]; !ok {
			words[v.Number()] = word
		}
		numbers[word] = v.Number()
	}
	return words, numbers
}

func screamingSnake(camel string) string {
	var b strings.Builder
	for i, r := range camel {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String())
}
