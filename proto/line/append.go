package line

import (
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Append adds m as one line, without the newline at its end.
func Append(dst []byte, m proto.Message) []byte {
	r := m.ProtoReflect()
	return planOf(r.Descriptor()).append(dst, r)
}

func (p *plan) append(dst []byte, m protoreflect.Message) []byte {
	switch p.wellKnown {
	case timestamp:
		return appendTime(dst, m.Get(p.fields[0].desc).Int(), m.Get(p.fields[1].desc).Int())
	case duration:
		return appendDuration(dst, m.Get(p.fields[0].desc).Int(), m.Get(p.fields[1].desc).Int())
	}
	dst = append(dst, '{')
	start := len(dst)
	for i := range p.fields {
		f := &p.fields[i]
		if !m.Has(f.desc) {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ',')
		}
		dst = append(dst, f.key...)
		v := m.Get(f.desc)
		switch {
		case f.list:
			dst = f.appendList(dst, v.List())
		case f.isMap:
			dst = f.appendMap(dst, v.Map())
		default:
			dst = f.appendValue(dst, v)
		}
	}
	return append(dst, '}')
}

func (f *field) appendList(dst []byte, l protoreflect.List) []byte {
	dst = append(dst, '[')
	for i := range l.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = f.appendValue(dst, l.Get(i))
	}
	return append(dst, ']')
}

func (f *field) appendMap(dst []byte, m protoreflect.Map) []byte {
	type entry struct {
		key   string
		value protoreflect.Value
	}
	entries := make([]entry, 0, m.Len())
	for k, v := range m.Range {
		entries = append(entries, entry{k.String(), v})
	}
	slices.SortFunc(entries, func(a, b entry) int {
		if a.key < b.key {
			return -1
		}
		return 1
	})
	dst = append(dst, '{')
	for i, e := range entries {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, e.key), ':')
		dst = f.appendValue(dst, e.value)
	}
	return append(dst, '}')
}

func (f *field) appendValue(dst []byte, v protoreflect.Value) []byte {
	switch f.kind {
	case protoreflect.StringKind:
		return appendString(dst, v.String())
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return f.msg.append(dst, v.Message())
	case protoreflect.BoolKind:
		return strconv.AppendBool(dst, v.Bool())
	case protoreflect.EnumKind:
		if word, ok := f.words[v.Enum()]; ok {
			return appendString(dst, word)
		}
		return strconv.AppendInt(dst, int64(v.Enum()), 10)
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return strconv.AppendUint(dst, v.Uint(), 10)
	case protoreflect.FloatKind:
		return appendFloat(dst, v.Float(), 32)
	case protoreflect.DoubleKind:
		return appendFloat(dst, v.Float(), 64)
	case protoreflect.BytesKind:
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, v.Bytes())
		return append(dst, '"')
	default:
		return strconv.AppendInt(dst, v.Int(), 10)
	}
}

// appendFloat prints what JSON cannot hold as null.
func appendFloat(dst []byte, v float64, bits int) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(dst, "null"...)
	}
	format := byte('f')
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, v, format, -1, bits)
}

// appendTime prints years 0 to 9999; a time beyond is no RFC 3339 date and prints as null.
func appendTime(dst []byte, seconds, nanos int64) []byte {
	if seconds < minSeconds || seconds > maxSeconds || nanos < 0 || nanos >= 1e9 {
		return append(dst, "null"...)
	}
	t := time.Unix(seconds, 0).UTC()
	dst = append(dst, '"')
	year, month, day := t.Date()
	dst = appendDigits(dst, year, 4)
	dst = append(dst, '-')
	dst = appendDigits(dst, int(month), 2)
	dst = append(dst, '-')
	dst = appendDigits(dst, day, 2)
	dst = append(dst, 'T')
	hour, minute, second := t.Clock()
	dst = appendDigits(dst, hour, 2)
	dst = append(dst, ':')
	dst = appendDigits(dst, minute, 2)
	dst = append(dst, ':')
	dst = appendDigits(dst, second, 2)
	if micros := nanos / 1000; micros > 0 {
		dst = append(dst, '.')
		dst = appendDigits(dst, int(micros), 6)
	}
	return append(dst, 'Z', '"')
}

const (
	minSeconds = -62167219200 // 0000-01-01T00:00:00Z
	maxSeconds = 253402300799 // 9999-12-31T23:59:59Z
	// maxDurationSeconds is the limit of google.protobuf.Duration: 10,000 years.
	maxDurationSeconds = 315576000000
)

func appendDuration(dst []byte, seconds, nanos int64) []byte {
	if seconds < -maxDurationSeconds || seconds > maxDurationSeconds || nanos <= -1e9 || nanos >= 1e9 {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	if micros := nanos / 1000; seconds < 0 || micros < 0 {
		dst = append(dst, '-')
		seconds, nanos = max(seconds, -seconds), max(nanos, -nanos)
	}
	dst = strconv.AppendInt(dst, seconds, 10)
	dst = append(dst, '.')
	dst = appendDigits(dst, int(nanos/1000), 6)
	return append(dst, 's', '"')
}

func appendDigits(dst []byte, v, width int) []byte {
	at := len(dst) + width
	dst = append(dst, "000000"[:width]...)
	for ; v > 0; v /= 10 {
		at--
		dst[at] = byte('0' + v%10)
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// appendString quotes s. Control characters are escaped, C1 and the line separators U+2028 and
// U+2029 too, because terminals and log readers act on them; invalid UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	plainFrom := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
				i++
				continue
			}
			dst = append(dst, s[plainFrom:i]...)
			dst = appendEscape(dst, rune(c))
			i++
			plainFrom = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || r < 0xa0 || r == 0x2028 || r == 0x2029 {
			dst = append(dst, s[plainFrom:i]...)
			dst = appendEscape(dst, r)
			plainFrom = i + size
		}
		i += size
	}
	dst = append(dst, s[plainFrom:]...)
	return append(dst, '"')
}

func appendEscape(dst []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}
