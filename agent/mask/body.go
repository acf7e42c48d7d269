package mask

import (
	"bytes"
	"strings"
)

type bodyKind uint8

const (
	bodyOther bodyKind = iota
	bodyJSON
	bodyForm
	bodyCoded // compressed: not masked inside, all of it is 'x'
)

func kindOf(contentType string) bodyKind {
	typ, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	typ = strings.TrimSpace(typ)
	switch {
	case typ == "application/json", typ == "text/json", strings.HasSuffix(typ, "+json"):
		return bodyJSON
	case typ == "application/x-www-form-urlencoded":
		return bodyForm
	}
	return bodyOther
}

// content masks one body, piece by piece.
type content struct {
	kind bodyKind
	seen int
	json json
	cut  bool // form: the piece before ended inside a pair
}

func (c *content) mask(b []byte) {
	c.seen += len(b)
	switch {
	case c.seen > maxBody:
		blank(b)
	case c.kind == bodyJSON:
		c.json.mask(b)
	case c.kind == bodyForm:
		c.form(b)
	default:
		blank(b)
	}
}

// form masks pairs. One that lies in two pieces loses its name too.
func (c *content) form(b []byte) {
	first := true
	for rest := b; len(rest) > 0; first = false {
		pair, after, more := bytes.Cut(rest, []byte("&"))
		if c.cut && first || !more && bytes.IndexByte(pair, '=') < 0 {
			blank(pair)
		} else {
			maskPair(pair, encoded)
		}
		if !more {
			c.cut = true
			return
		}
		rest = after
		c.cut = false
	}
}

// json masks a JSON text in place, piece by piece: structure and names stay, values become dummies. It does not ask
// whether the text is valid: what stands where no value or name can stand becomes 'x'.
type json struct {
	stack      []byte // '{' or '['
	wantKey    bool
	inString   bool // the piece before ended inside a string
	escape     int  // characters of an escape that are still to come
	word       bool // inside a number or literal
	algorithms bool // keep the values of "alg" and "typ": a token's header
	key        string
}

const maxDepth = 512

func (j *json) mask(b []byte) {
	i := 0
	if j.inString {
		n, closed := j.end(b)
		blankString(b[:n])
		j.inString = !closed
		i = n
		if closed {
			i++
			j.wantKey = false
		}
	}
	for i < len(b) {
		c := b[i]
		switch {
		case c == ' ' || c == '\n' || c == '\r' || c == '\t':
			j.word = false
		case c == '{' || c == '[':
			j.word = false
			if len(j.stack) < maxDepth {
				j.stack = append(j.stack, c)
			}
			j.wantKey = c == '{'
		case c == '}' || c == ']':
			j.word = false
			if len(j.stack) > 0 {
				j.stack = j.stack[:len(j.stack)-1]
			}
			j.wantKey = false
		case c == ',':
			j.word = false
			j.wantKey = len(j.stack) > 0 && j.stack[len(j.stack)-1] == '{'
		case c == ':':
			j.word = false
			j.wantKey = false
		case c == '"':
			i += 1 + j.str(b[i+1:])
		default:
			i += j.scalar(b[i:]) - 1
		}
		i++
	}
}

// str masks a string after its opening quote and returns where it ends.
func (j *json) str(b []byte) int {
	j.escape = 0
	n, closed := j.end(b)
	v := b[:n]
	switch {
	case !closed:
		blankString(v)
		j.inString = true
	case bytes.IndexByte(v, '\\') >= 0:
		blankString(v)
	case j.wantKey:
		maskName(v)
		j.key = string(v)
	case j.algorithms && (j.key == "alg" || j.key == "typ") && n <= 12 && words(string(v)):
	default:
		text(v)
	}
	return n
}

// end finds the closing quote of a string that may have begun in a piece before.
func (j *json) end(b []byte) (int, bool) {
	for i, c := range b {
		switch {
		case j.escape > 0:
			j.escape--
		case c == '\\':
			j.escape = 1
		case c == '"':
			return i, true
		}
	}
	return len(b), false
}

// blankString turns all of a string into 'x', its escapes too: the length stays.
func blankString(b []byte) { blank(b) }

// scalar masks a number or literal and returns its length.
func (j *json) scalar(b []byte) int {
	n := 0
	for n < len(b) && !bytes.ContainsRune([]byte(" \n\r\t,:{}[]\""), rune(b[n])) {
		n++
	}
	v := b[:n]
	if w := string(v); !j.word && (w == "true" || w == "false" || w == "null") {
		return max(n, 1)
	}
	whole := !j.word && n < len(b)
	j.word = true
	if whole && len(v) >= 15 {
		if t := bytes.Clone(v); t[0] == '4' || t[0] == '5' || t[0] == '3' {
			text(v)
			return n
		}
	}
	for i, c := range v {
		switch {
		case c >= '0' && c <= '9':
			v[i] = '1'
		case c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E':
		default:
			v[i] = 'x'
		}
	}
	return max(n, 1)
}
