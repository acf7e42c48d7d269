package line

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Unmarshal reads one line into m, which is emptied first. Keys that m does not have are skipped; of
// a repeated key the last value counts.
func Unmarshal(line []byte, m proto.Message) error {
	if len(line) > MaxBytes {
		return ErrTooLong
	}
	proto.Reset(m)
	r := m.ProtoReflect()
	s := scanner{line: line}
	if err := planOf(r.Descriptor()).read(&s, r); err != nil {
		return err
	}
	if s.peek() != 0 || s.at < len(s.line) {
		return s.syntax("more after the end of the value")
	}
	return nil
}

func (p *plan) read(s *scanner, m protoreflect.Message) error {
	if p.wellKnown != plain {
		return p.readWellKnown(s, m)
	}
	return s.each('{', '}', func(key []byte) error {
		f := p.byName[string(key)]
		if f == nil {
			return s.skip()
		}
		if s.peek() == 'n' {
			m.Clear(f.desc)
			_, err := s.word()
			return err
		}
		if err := f.read(s, m); err != nil {
			return within(string(f.desc.Name()), err)
		}
		return nil
	})
}

// within names the field in which reading failed: "request.fields.count: ...".
func within(key string, err error) error {
	if errors.Is(err, ErrSyntax) || errors.Is(err, ErrDepth) {
		return err
	}
	var in *fieldError
	if errors.As(err, &in) {
		in.path = key + "." + in.path
		return err
	}
	return &fieldError{key, err}
}

type fieldError struct {
	path string
	err  error
}

func (e *fieldError) Error() string { return "field " + e.path + ": " + e.err.Error() }

func (e *fieldError) Unwrap() error { return e.err }

func (f *field) read(s *scanner, m protoreflect.Message) error {
	switch {
	case f.list:
		list := m.NewField(f.desc).List()
		err := s.each('[', ']', func([]byte) error {
			v, err := f.value(s, list.NewElement())
			if err == nil {
				list.Append(v)
			}
			return err
		})
		if err != nil {
			return err
		}
		m.Set(f.desc, protoreflect.ValueOfList(list))
	case f.isMap:
		values := m.NewField(f.desc).Map()
		err := s.each('{', '}', func(key []byte) error {
			k, err := mapKey(f.desc.MapKey().Kind(), string(key))
			if err != nil {
				return err
			}
			v, err := f.value(s, values.NewValue())
			if err == nil {
				values.Set(k, v)
			}
			return err
		})
		if err != nil {
			return err
		}
		m.Set(f.desc, protoreflect.ValueOfMap(values))
	default:
		v, err := f.value(s, m.NewField(f.desc))
		if err != nil {
			return err
		}
		m.Set(f.desc, v)
	}
	return nil
}

func mapKey(k protoreflect.Kind, key string) (protoreflect.MapKey, error) {
	if k == protoreflect.StringKind {
		return protoreflect.ValueOfString(key).MapKey(), nil
	}
	v, err := scalar(k, key)
	if err != nil {
		return protoreflect.MapKey{}, err
	}
	return v.MapKey(), nil
}

func (f *field) value(s *scanner, fresh protoreflect.Value) (protoreflect.Value, error) {
	quoted := s.peek() == '"'
	switch f.kind {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return fresh, f.msg.read(s, fresh.Message())
	case protoreflect.StringKind, protoreflect.BytesKind:
		if !quoted {
			return protoreflect.Value{}, wrong("want a string")
		}
		text, err := s.text()
		if err != nil || f.kind == protoreflect.StringKind {
			return protoreflect.ValueOfString(text), err
		}
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return protoreflect.Value{}, wrong("want base64")
		}
		return protoreflect.ValueOfBytes(b), nil
	case protoreflect.EnumKind:
		return f.enum(s, quoted)
	}
	if quoted || s.peek() == '{' || s.peek() == '[' {
		return protoreflect.Value{}, wrong("want a number, true or false")
	}
	word, err := s.word()
	if err != nil {
		return protoreflect.Value{}, err
	}
	return scalar(f.kind, word)
}

func (f *field) enum(s *scanner, quoted bool) (protoreflect.Value, error) {
	if quoted {
		word, err := s.text()
		if err != nil {
			return protoreflect.Value{}, err
		}
		n, ok := f.enums[strings.ToLower(word)]
		if !ok {
			return protoreflect.Value{}, wrong("unknown word %q", word)
		}
		return protoreflect.ValueOfEnum(n), nil
	}
	word, err := s.word()
	if err != nil {
		return protoreflect.Value{}, err
	}
	n, err := strconv.ParseInt(word, 10, 32)
	if err != nil {
		return protoreflect.Value{}, wrong("want a word")
	}
	return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n)), nil
}

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrValue, fmt.Sprintf(format, args...))
}

func scalar(k protoreflect.Kind, word string) (protoreflect.Value, error) {
	switch k {
	case protoreflect.BoolKind:
		if word != "true" && word != "false" {
			return protoreflect.Value{}, wrong("want true or false")
		}
		return protoreflect.ValueOfBool(word == "true"), nil
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		n, err := strconv.ParseUint(word, 10, 32)
		if err != nil {
			return protoreflect.Value{}, wrong("want an integer from 0 to %d", uint32(math.MaxUint32))
		}
		return protoreflect.ValueOfUint32(uint32(n)), nil
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		n, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			return protoreflect.Value{}, wrong("want an integer from 0 to %d", uint64(math.MaxUint64))
		}
		return protoreflect.ValueOfUint64(n), nil
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		n, err := strconv.ParseInt(word, 10, 32)
		if err != nil {
			return protoreflect.Value{}, wrong("want an integer of 32 bits")
		}
		return protoreflect.ValueOfInt32(int32(n)), nil
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return protoreflect.Value{}, wrong("want an integer of 64 bits")
		}
		return protoreflect.ValueOfInt64(n), nil
	case protoreflect.FloatKind:
		v, err := strconv.ParseFloat(word, 32)
		if err != nil {
			return protoreflect.Value{}, wrong("want a number")
		}
		return protoreflect.ValueOfFloat32(float32(v)), nil
	case protoreflect.DoubleKind:
		v, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return protoreflect.Value{}, wrong("want a number")
		}
		return protoreflect.ValueOfFloat64(v), nil
	}
	return protoreflect.Value{}, wrong("a field of kind %v cannot be read", k)
}

func (p *plan) readWellKnown(s *scanner, m protoreflect.Message) error {
	if s.peek() != '"' {
		return wrong("want a string")
	}
	text, err := s.text()
	if err != nil {
		return err
	}
	var seconds int64
	var nanos int32
	if p.wellKnown == timestamp {
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil || t.Unix() < minSeconds || t.Unix() > maxSeconds {
			return wrong("want a time such as 2026-11-21T10:00:00.123456Z, not %.40q", text)
		}
		seconds, nanos = t.Unix(), int32(t.Nanosecond())
	} else if seconds, nanos, err = parseDuration(text); err != nil {
		return err
	}
	m.Set(p.fields[0].desc, protoreflect.ValueOfInt64(seconds))
	m.Set(p.fields[1].desc, protoreflect.ValueOfInt32(nanos))
	return nil
}

// parseDuration reads seconds with up to nine decimals: "0.0021s".
func parseDuration(text string) (seconds int64, nanos int32, err error) {
	number, ok := strings.CutSuffix(text, "s")
	number, negative := strings.CutPrefix(number, "-")
	if !ok || !isNumber(number) || strings.ContainsAny(number, "eE-") {
		return 0, 0, badDuration(text)
	}
	whole, decimals, _ := strings.Cut(number, ".")
	seconds, err = strconv.ParseInt(whole, 10, 64)
	if err != nil || seconds > maxDurationSeconds || len(decimals) > 9 {
		return 0, 0, badDuration(text)
	}
	n, err := strconv.ParseInt((decimals + "000000000")[:9], 10, 32)
	if err != nil {
		return 0, 0, badDuration(text)
	}
	if negative {
		return -seconds, -int32(n), nil
	}
	return seconds, int32(n), nil
}

func badDuration(text string) error {
	return wrong("want a duration such as 0.002100s, not %.40q", text)
}
