package columns

import (
	"math/rand/v2"
	"strings"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func minimalCall() *v1.Call {
	return &v1.Call{Id: strings.Repeat("0f", 16), Time: &timestamppb.Timestamp{Seconds: 1_795_255_200}}
}

// randomCall sets about half of all fields at every depth to values that Check accepts.
func randomCall(r *rand.Rand) *v1.Call {
	c := minimalCall()
	id, at := c.Id, c.Time
	fill(r, c.ProtoReflect())
	c.Id, c.Time = id, at
	if r.IntN(2) == 0 {
		c.Id = hexOf(r.Uint64(), r.Uint64())
	}
	c.Time = &timestamppb.Timestamp{Seconds: r.Int64N(4e9) - 1e9, Nanos: r.Int32N(1e9)}
	if c.Duration != nil {
		c.Duration = &durationpb.Duration{Seconds: r.Int64N(1000), Nanos: r.Int32N(1e9)}
	}
	for i := range c.Coverage {
		c.Coverage[i] = []string{"gap", "truncated", "late_join"}[r.IntN(3)]
	}
	for _, content := range []*v1.Content{c.Request, c.Response} {
		if content != nil && content.Bytes != nil {
			content.Bytes = proto.Uint64(r.Uint64() >> r.IntN(64) >> 1)
		}
	}
	return c
}

func fill(r *rand.Rand, m protoreflect.Message) {
	for i := range m.Descriptor().Fields().Len() {
		if r.IntN(2) == 0 {
			setRandom(r, m, m.Descriptor().Fields().Get(i))
		}
	}
}

func setRandom(r *rand.Rand, m protoreflect.Message, fd protoreflect.FieldDescriptor) {
	switch {
	case fd.IsMap():
		values := m.Mutable(fd).Map()
		for range 1 + r.IntN(3) {
			values.Set(protoreflect.ValueOfString(randomText(r)).MapKey(), protoreflect.ValueOfString(randomText(r)))
		}
	case fd.IsList():
		list := m.Mutable(fd).List()
		for range 1 + r.IntN(3) {
			if fd.Message() != nil {
				fill(r, list.AppendMutable().Message())
			} else {
				list.Append(scalar(r, fd.Kind()))
			}
		}
	case fd.Message() != nil:
		if ts, ok := m.Mutable(fd).Message().Interface().(*timestamppb.Timestamp); ok {
			ts.Seconds, ts.Nanos = r.Int64N(4e9)-1e9, r.Int32N(1e9)
			return
		}
		if fd.Message().ParentFile().Package() == "spile.v1" {
			fill(r, m.Mutable(fd).Message())
		}
	default:
		m.Set(fd, scalar(r, fd.Kind()))
	}
}

func scalar(r *rand.Rand, k protoreflect.Kind) protoreflect.Value {
	switch k {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(randomText(r))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(r.IntN(5)))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(r.Uint32() >> r.IntN(32))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(r.Uint64() >> r.IntN(64))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(r.IntN(wholeShare+1)) / wholeShare)
	}
	panic("no random value for kind " + k.String())
}

func randomText(r *rand.Rand) string {
	if r.IntN(3) == 0 {
		return "h:" + hexOf(r.Uint64N(10), 1)[:24]
	}
	return []string{"", "/", "a", "/a/{id}", "é", "h:", "\x00\n", "x,y", strings.Repeat("long/", 50)}[r.IntN(9)]
}

// setOne gives a field a value that is not its zero value and that Check accepts.
func setOne(m protoreflect.Message, fd protoreflect.FieldDescriptor) {
	one := func(k protoreflect.Kind) protoreflect.Value {
		switch k {
		case protoreflect.StringKind:
			if fd.Name() == "id" {
				return protoreflect.ValueOfString(strings.Repeat("a1", 16))
			}
			return protoreflect.ValueOfString("value")
		case protoreflect.EnumKind:
			return protoreflect.ValueOfEnum(2)
		case protoreflect.Uint32Kind:
			return protoreflect.ValueOfUint32(77)
		case protoreflect.Uint64Kind:
			return protoreflect.ValueOfUint64(77)
		case protoreflect.DoubleKind:
			return protoreflect.ValueOfFloat64(0.077)
		}
		panic("no value for kind " + k.String())
	}
	switch {
	case fd.IsMap():
		m.Mutable(fd).Map().Set(protoreflect.ValueOfString("k").MapKey(), one(fd.MapValue().Kind()))
	case fd.IsList() && fd.Message() != nil:
		m.Mutable(fd).List().AppendMutable()
	case fd.IsList():
		m.Mutable(fd).List().Append(one(fd.Kind()))
	case fd.Message() != nil:
		switch x := m.Mutable(fd).Message().Interface().(type) {
		case *timestamppb.Timestamp:
			x.Seconds, x.Nanos = 1_795_255_200, 77
		case *durationpb.Duration:
			x.Seconds, x.Nanos = 7, 77
		}
	default:
		m.Set(fd, one(fd.Kind()))
	}
}
