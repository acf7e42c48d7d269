package line

import (
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return mt.New().Interface()
}

// fill sets about two thirds of the fields, at every depth.
func fill(r *rand.Rand, m protoreflect.Message, depth int) {
	switch x := m.Interface().(type) {
	case *timestamppb.Timestamp:
		x.Seconds, x.Nanos = r.Int64N(4e9)-1e9, int32(r.IntN(1e6))*1000
		return
	case *durationpb.Duration:
		x.Seconds, x.Nanos = r.Int64N(1e6), int32(r.IntN(1e6))*1000
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if r.IntN(3) == 0 || depth > 5 {
			continue
		}
		switch {
		case fd.IsList():
			list := m.NewField(fd).List()
			for range 1 + r.IntN(3) {
				list.Append(randomValue(r, fd, list.NewElement, depth))
			}
			m.Set(fd, protoreflect.ValueOfList(list))
		case fd.IsMap():
			values := m.NewField(fd).Map()
			for range 1 + r.IntN(3) {
				values.Set(protoreflect.ValueOfString(randomText(r)).MapKey(), randomValue(r, fd.MapValue(), values.NewValue, depth))
			}
			m.Set(fd, protoreflect.ValueOfMap(values))
		default:
			m.Set(fd, randomValue(r, fd, func() protoreflect.Value { return m.NewField(fd) }, depth))
		}
	}
}

func randomValue(r *rand.Rand, fd protoreflect.FieldDescriptor, fresh func() protoreflect.Value, depth int) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		v := fresh()
		fill(r, v.Message(), depth+1)
		return v
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(randomText(r))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(randomText(r)))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(r.IntN(2) == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(r.IntN(6)))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(r.Uint32())
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(r.Uint64())
	case protoreflect.Sint64Kind, protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(r.Uint64()))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(r.NormFloat64() * 1e10)
	}
	panic("no random value for kind " + fd.Kind().String())
}

func randomText(r *rand.Rand) string {
	alphabet := []rune("abcXYZ09/{}.\"\\\n\r\t\x00\x1b\x7f\u0085\u2028é漢\U0001f600")
	text := make([]rune, r.IntN(12))
	for i := range text {
		text[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(text)
}
