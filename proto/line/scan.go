package line

import (
	"errors"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// MaxBytes bounds a line for Unmarshal.
	MaxBytes = 4 << 20
	// maxDepth bounds nesting; spile.v1 needs 6.
	maxDepth = 32
)

var (
	// ErrTooLong says that a line exceeds MaxBytes.
	ErrTooLong = errors.New("line exceeds 4 MiB")
	// ErrSyntax says that a line is not JSON (RFC 8259).
	ErrSyntax = errors.New("not valid JSON")
	// ErrDepth says that a line nests deeper than any message.
	ErrDepth = errors.New("nested too deep")
	// ErrValue says that a value does not fit its field.
	ErrValue = errors.New("wrong value")
)

// scanner reads JSON tokens from one line.
type scanner struct {
	line  []byte
	at    int
	depth int
}

func (s *scanner) syntax(what string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrSyntax, what, s.at+1)
}

func (s *scanner) space() {
	for s.at < len(s.line) {
		switch s.line[s.at] {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return
		}
	}
}

// peek is the first byte of the next token, 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.at == len(s.line) {
		return 0
	}
	return s.line[s.at]
}

func (s *scanner) expect(c byte) error {
	if s.peek() != c {
		return s.syntax("want '" + string(rune(c)) + "'")
	}
	s.at++
	return nil
}

// each reads an object or array and calls member at each value; key is empty in an array and valid
// until the next token.
func (s *scanner) each(open, end byte, member func(key []byte) error) error {
	if err := s.expect(open); err != nil {
		return err
	}
	if s.depth++; s.depth > maxDepth {
		return ErrDepth
	}
	defer func() { s.depth-- }()
	if s.peek() == end {
		s.at++
		return nil
	}
	for {
		var key []byte
		if open == '{' {
			s.space()
			var err error
			if key, err = s.raw(); err != nil {
				return err
			}
			if err := s.expect(':'); err != nil {
				return err
			}
		}
		if err := member(key); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.at++
		case end:
			s.at++
			return nil
		default:
			return s.syntax("want ',' or '" + string(rune(end)) + "'")
		}
	}
}

// skip passes over one value of any kind.
func (s *scanner) skip() error {
	switch c := s.peek(); c {
	case '{':
		return s.each('{', '}', func([]byte) error { return s.skip() })
	case '[':
		return s.each('[', ']', func([]byte) error { return s.skip() })
	case '"':
		_, err := s.raw()
		return err
	default:
		_, err := s.word()
		return err
	}
}

// word reads a number or a literal.
func (s *scanner) word() (string, error) {
	s.space()
	start := s.at
	for s.at < len(s.line) {
		switch s.line[s.at] {
		case ',', ']', '}', ':', ' ', '\t', '\r', '\n', '"', '[', '{':
		default:
			s.at++
			continue
		}
		break
	}
	word := string(s.line[start:s.at])
	switch {
	case word == "true", word == "false", word == "null":
	case isNumber(word):
	default:
		s.at = start
		return "", s.syntax("want a value")
	}
	return word, nil
}

// isNumber follows the grammar of RFC 8259 section 6, which strconv is laxer than.
func isNumber(w string) bool {
	i := 0
	digits := func() bool {
		from := i
		for i < len(w) && w[i] >= '0' && w[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(w) && w[i] == '-' {
		i++
	}
	zero := i < len(w) && w[i] == '0'
	from := i
	if !digits() || zero && i > from+1 {
		return false
	}
	if i < len(w) && w[i] == '.' {
		if i++; !digits() {
			return false
		}
	}
	if i < len(w) && (w[i] == 'e' || w[i] == 'E') {
		if i++; i < len(w) && (w[i] == '+' || w[i] == '-') {
			i++
		}
		if !digits() {
			return false
		}
	}
	return i == len(w)
}

// text reads a string. Invalid UTF-8 and lone surrogates become U+FFFD.
func (s *scanner) text() (string, error) {
	b, err := s.raw()
	return string(b), err
}

// raw is text in place where nothing in it is escaped.
func (s *scanner) raw() ([]byte, error) {
	if s.at == len(s.line) || s.line[s.at] != '"' {
		return nil, s.syntax("want a string")
	}
	s.at++
	start := s.at
	for s.at < len(s.line) {
		switch c := s.line[s.at]; {
		case c == '"':
			s.at++
			return s.line[start : s.at-1], nil
		case c == '\\' || c >= utf8.RuneSelf:
			return s.slowText(append([]byte(nil), s.line[start:s.at]...))
		case c < ' ':
			return nil, s.syntax("raw control character in a string")
		default:
			s.at++
		}
	}
	return nil, s.syntax("string without end")
}

func (s *scanner) slowText(out []byte) ([]byte, error) {
	for s.at < len(s.line) {
		c := s.line[s.at]
		switch {
		case c == '"':
			s.at++
			return out, nil
		case c == '\\':
			r, err := s.escape()
			if err != nil {
				return nil, err
			}
			out = utf8.AppendRune(out, r)
		case c < ' ':
			return nil, s.syntax("raw control character in a string")
		case c < utf8.RuneSelf:
			out = append(out, c)
			s.at++
		default:
			r, size := utf8.DecodeRune(s.line[s.at:])
			out = utf8.AppendRune(out, r)
			s.at += size
		}
	}
	return nil, s.syntax("string without end")
}

func (s *scanner) escape() (rune, error) {
	if s.at+1 >= len(s.line) {
		return 0, s.syntax("escape without end")
	}
	c := s.line[s.at+1]
	switch c {
	case '"', '\\', '/':
		s.at += 2
		return rune(c), nil
	case 'b', 'f', 'n', 'r', 't':
		s.at += 2
		return map[byte]rune{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}[c], nil
	case 'u':
		r, ok := s.unit(s.at)
		if !ok {
			return 0, s.syntax("bad \\u escape")
		}
		s.at += 6
		if utf16.IsSurrogate(r) {
			low, ok := s.unit(s.at)
			if pair := utf16.DecodeRune(r, low); ok && pair != utf8.RuneError {
				s.at += 6
				return pair, nil
			}
			return utf8.RuneError, nil
		}
		return r, nil
	}
	return 0, s.syntax("unknown escape")
}

// unit reads \uXXXX at a place.
func (s *scanner) unit(at int) (rune, bool) {
	if at+6 > len(s.line) || s.line[at] != '\\' || s.line[at+1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range s.line[at+2 : at+6] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}
