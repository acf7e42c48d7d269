package call

// scanner splits JSON (RFC 8259) into tokens in one pass, without building values. It agrees with encoding/json on what
// is valid, and where the text ends early it says so after the last whole token.
//
//	value ─▶ '{' ─▶ key ─▶ value ─▶ ',' key … '}' ─▶ after
//	      ─▶ '[' ─▶ value ─▶ ',' value … ']' ────────▶ after
//	      ─▶ scalar ─────────────────────────────────▶ after ─▶ end of text
type scanner struct {
	data  []byte
	pos   int
	state scanState
	stack []byte // open containers, '{' or '['
	// escaped: the string that was read last has a backslash.
	escaped bool
}

// What a byte may mean inside a string.
const (
	ordinary = iota
	quote
	control
	backslash
)

var special = func() (table [256]uint8) {
	for c := range 0x20 {
		table[c] = control
	}
	table['"'], table['\\'] = quote, backslash
	return table
}()

type scanState uint8

const (
	wantValue scanState = iota
	wantFirst           // after '[': a value or ']'
	wantKey             // after ',' in an object
	wantFirstKey
	wantComma // after a value inside a container
	wantEnd   // after the outermost value
)

type token uint8

const (
	tokEnd token = iota // the whole text was valid
	tokTruncated
	tokInvalid
	tokObject
	tokObjectEnd
	tokArray
	tokArrayEnd
	tokKey
	tokString
	tokInteger
	tokNumber
	tokBoolean
	tokNull
)

func (s *scanner) reset(data []byte) {
	s.data, s.pos, s.state, s.stack = data, 0, wantValue, s.stack[:0]
}

// next returns the next token and, for keys and scalars, its raw text: without quotes, with escapes.
func (s *scanner) next() (token, []byte) {
	for {
		c, ok := s.skipSpace()
		if !ok {
			if s.state == wantEnd {
				return tokEnd, nil
			}
			return tokTruncated, nil
		}
		switch s.state {
		case wantEnd:
			return tokInvalid, nil
		case wantComma:
			top := s.stack[len(s.stack)-1]
			switch {
			case c == ',' && top == '{':
				s.state = wantKey
			case c == ',':
				s.state = wantValue
			case c == '}' && top == '{', c == ']' && top == '[':
				return s.pop()
			default:
				return tokInvalid, nil
			}
			s.pos++
			continue
		case wantFirst:
			if c == ']' {
				return s.pop()
			}
		case wantFirstKey, wantKey:
			if c == '}' && s.state == wantFirstKey {
				return s.pop()
			}
			return s.key(c)
		}
		return s.value(c)
	}
}

func (s *scanner) skipSpace() (byte, bool) {
	if s.pos < len(s.data) {
		if c := s.data[s.pos]; c > ' ' {
			return c, true
		}
	}
	return s.skipSpaces()
}

func (s *scanner) skipSpaces() (byte, bool) {
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		if c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c, true
		}
		s.pos++
	}
	return 0, false
}

func (s *scanner) pop() (token, []byte) {
	s.pos++
	top := s.stack[len(s.stack)-1]
	s.stack = s.stack[:len(s.stack)-1]
	s.after()
	if top == '{' {
		return tokObjectEnd, nil
	}
	return tokArrayEnd, nil
}

func (s *scanner) after() {
	s.state = wantComma
	if len(s.stack) == 0 {
		s.state = wantEnd
	}
}

func (s *scanner) key(c byte) (token, []byte) {
	if c != '"' {
		return tokInvalid, nil
	}
	raw, t := s.str()
	if t != tokString {
		return t, nil
	}
	colon, ok := s.skipSpace()
	if !ok {
		return tokTruncated, nil
	}
	if colon != ':' {
		return tokInvalid, nil
	}
	s.pos++
	s.state = wantValue
	return tokKey, raw
}

func (s *scanner) value(c byte) (token, []byte) {
	switch {
	case c == '{':
		s.pos++
		s.stack = append(s.stack, c)
		s.state = wantFirstKey
		return tokObject, nil
	case c == '[':
		s.pos++
		s.stack = append(s.stack, c)
		s.state = wantFirst
		return tokArray, nil
	case c == '"':
		raw, t := s.str()
		if t == tokString {
			s.after()
		}
		return t, raw
	case c == 't':
		return s.literal("true", tokBoolean)
	case c == 'f':
		return s.literal("false", tokBoolean)
	case c == 'n':
		return s.literal("null", tokNull)
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	}
	return tokInvalid, nil
}

func (s *scanner) literal(word string, t token) (token, []byte) {
	for i := range len(word) {
		if s.pos+i == len(s.data) {
			return tokTruncated, nil
		}
		if s.data[s.pos+i] != word[i] {
			return tokInvalid, nil
		}
	}
	raw := s.data[s.pos : s.pos+len(word)]
	s.pos += len(word)
	s.after()
	return t, raw
}

// str reads a string at the opening quote; the text between the quotes is returned as it stands.
func (s *scanner) str() ([]byte, token) {
	begin := s.pos + 1
	s.escaped = false
	for i := begin; i < len(s.data); i++ {
		switch special[s.data[i]] {
		case ordinary:
		case quote:
			s.pos = i + 1
			return s.data[begin:i], tokString
		case control:
			return nil, tokInvalid
		case backslash:
			s.escaped = true
			i++
			if i == len(s.data) {
				return nil, tokTruncated
			}
			switch s.data[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for n := 0; n < 4; n++ {
					i++
					if i == len(s.data) {
						return nil, tokTruncated
					}
					if hexDigit(s.data[i]) > 15 {
						return nil, tokInvalid
					}
				}
			default:
				return nil, tokInvalid
			}
		}
	}
	return nil, tokTruncated
}

// number reads -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)?. At the end of the text a number inside a container may
// go on, so it is truncated.
func (s *scanner) number() (token, []byte) {
	i, t := s.pos, tokInteger
	if s.data[i] == '-' {
		i++
	}
	switch {
	case i == len(s.data):
		return tokTruncated, nil
	case s.data[i] == '0':
		i++
	case s.data[i] >= '1' && s.data[i] <= '9':
		i = s.digits(i)
	default:
		return tokInvalid, nil
	}
	if i < len(s.data) && s.data[i] == '.' {
		t = tokNumber
		j := s.digits(i + 1)
		if j == i+1 {
			return s.missing(j)
		}
		i = j
	}
	if i < len(s.data) && s.data[i]|0x20 == 'e' {
		t = tokNumber
		i++
		if i < len(s.data) && (s.data[i] == '+' || s.data[i] == '-') {
			i++
		}
		j := s.digits(i)
		if j == i {
			return s.missing(j)
		}
		i = j
	}
	if i == len(s.data) && len(s.stack) > 0 {
		return tokTruncated, nil
	}
	raw := s.data[s.pos:i]
	s.pos = i
	s.after()
	return t, raw
}

func (s *scanner) digits(i int) int {
	for i < len(s.data) && s.data[i] >= '0' && s.data[i] <= '9' {
		i++
	}
	return i
}

func (s *scanner) missing(at int) (token, []byte) {
	if at == len(s.data) {
		return tokTruncated, nil
	}
	return tokInvalid, nil
}

func hexDigit(c byte) rune {
	switch {
	case c >= '0' && c <= '9':
		return rune(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return rune(c|0x20-'a') + 10
	}
	return 16
}
