package mask

import (
	"bytes"
	"encoding/base64"
	"strings"

	"github.com/spile/spile/proto/segment"
)

// maskHead masks a head in place. It reports whether it is one, and of which direction.
func maskHead(b []byte, fr *framing) (ok, response bool) {
	end := bytes.IndexByte(b, '\n')
	line := bytes.TrimRight(b[:end], "\r")
	parts := bytes.SplitN(line, []byte(" "), 3)
	switch {
	case len(parts) >= 2 && bytes.HasPrefix(parts[0], []byte("HTTP/1.")) && len(parts[0]) == 8 && len(parts[1]) == 3:
		response = true
		fr.status = int(parts[1][0]-'0')*100 + int(parts[1][1]-'0')*10 + int(parts[1][2]-'0')
		if len(parts) == 3 {
			letters(parts[2])
		}
	case len(parts) == 3 && bytes.HasPrefix(parts[2], []byte("HTTP/1.")) && len(parts[2]) == 8 && isMethod(parts[0]):
		fr.method = string(parts[0])
		maskTarget(parts[1])
	default:
		blank(b)
		return false, false
	}
	for rest := b[end+1:]; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n')
		if n < 0 {
			n = len(rest) - 1
		}
		maskHeaderLine(rest[:n+1], fr)
		rest = rest[n+1:]
	}
	return true, response
}

func isMethod(b []byte) bool {
	for _, c := range b {
		if (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return len(b) > 0 && len(b) <= 20 && !segment.Lex(string(b)).IsPrivate()
}

// maskHeaderLine masks one field line with its line end.
func maskHeaderLine(b []byte, fr *framing) {
	line := bytes.TrimRight(b, "\r\n")
	if len(line) == 0 {
		return
	}
	i := bytes.IndexByte(line, ':')
	if i <= 0 {
		blank(line)
		return
	}
	name := strings.ToLower(string(line[:i]))
	value := line[i+1:]
	for len(value) > 0 && (value[0] == ' ' || value[0] == '\t') {
		value = value[1:]
	}
	fr.note(name, strings.TrimSpace(string(value)))
	maskName(line[:i])
	maskHeader(name, value)
}

// kept are headers whose values frame the message or say what the body is; they are kept if they have the form that
// they must have.
var kept = map[string]func(string) bool{
	"content-length":    func(v string) bool { return len(v) <= 20 && only(v, "0123456789") },
	"transfer-encoding": func(v string) bool { return words(v) },
	"content-encoding":  func(v string) bool { return words(v) },
	"connection":        func(v string) bool { return words(v) },
	"upgrade":           func(v string) bool { return words(v) },
	"content-type":      func(v string) bool { return len(v) <= 96 && words(v) },
	"cache-control":     func(v string) bool { return len(v) <= 96 && words(v) },
	":status":           func(v string) bool { return len(v) == 3 && only(v, "0123456789") },
	":scheme":           func(v string) bool { return v == "http" || v == "https" },
	":method":           func(v string) bool { return isMethod([]byte(v)) },
}

func only(v, set string) bool { return strings.Trim(v, set) == "" }

// words reports whether each word of a value may leave the node by itself, and all of it together.
func words(v string) bool {
	for w := range strings.FieldsFuncSeq(v, func(r rune) bool { return strings.ContainsRune(" ,;=/\"", r) }) {
		if k := segment.Lex(w); k.IsPrivate() || len(w) > 48 || k > segment.File && len(w) > 9 {
			return false
		}
	}
	return true
}

// maskHeader masks the value of a header in place.
func maskHeader(name string, v []byte) {
	switch {
	case kept[name] != nil && kept[name](strings.TrimSpace(string(v))):
	case name == "host", name == ":authority":
		maskHost(v)
	case name == ":path":
		maskTarget(v)
	case name == "authorization":
		maskAuthorization(v)
	case name == "cookie":
		for pair := range bytes.SplitSeq(v, []byte(";")) {
			maskPair(bytes.TrimLeft(pair, " "), text)
		}
	case name == "set-cookie":
		pair, rest, _ := bytes.Cut(v, []byte(";"))
		maskPair(pair, text)
		letters(rest)
	default:
		maskToken(v)
	}
}

func maskHost(b []byte) {
	for label := range bytes.SplitSeq(b, []byte(".")) {
		maskSegment(label)
	}
}

// maskAuthorization keeps the scheme word, and the form of what follows it.
func maskAuthorization(v []byte) {
	word, rest, ok := bytes.Cut(v, []byte(" "))
	if !ok || len(word) > 20 || segment.LexValue(word).IsPrivate() {
		maskToken(v)
		return
	}
	switch strings.ToLower(string(word)) {
	case "basic":
		maskBasic(rest)
	case "bearer", "token", "jwt", "dpop", "apikey", "api-key", "key":
		maskToken(rest)
	case "digest", "ntlm", "negotiate", "aws4-hmac-sha256":
		for pair := range bytes.SplitSeq(rest, []byte(",")) {
			maskPair(bytes.TrimLeft(pair, " "), text)
		}
	default:
		maskToken(word)
		maskToken(rest)
	}
}

// maskBasic makes base64 of "xxx:xxx", as long as what was there.
func maskBasic(b []byte) {
	pad := len(b) - len(bytes.TrimRight(b, "="))
	n := base64.StdEncoding.DecodedLen(len(b)) - pad
	if len(b)%4 != 0 || n < 1 || pad > 2 {
		letters(b)
		return
	}
	plain := bytes.Repeat([]byte("x"), n)
	plain[n/2] = ':'
	copy(b, base64.StdEncoding.EncodeToString(plain))
}

// maskToken keeps of a JWT its structure, and of other credentials the prefix that tells their format.
func maskToken(b []byte) {
	if !bytes.HasPrefix(b, []byte("eyJ")) || bytes.Count(b, []byte(".")) < 2 {
		text(b)
		return
	}
	parts := bytes.SplitN(b, []byte("."), 3)
	for _, p := range parts[:2] {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(string(p))
		if err != nil {
			text(b)
			return
		}
		c := content{kind: bodyJSON, json: json{algorithms: true}}
		c.mask(raw)
		base64.RawURLEncoding.Encode(p, raw)
	}
	pattern(parts[2])
}

// maskPair masks "name=value": the name as names are, the value by f.
func maskPair(b []byte, f func([]byte)) {
	name, value, ok := bytes.Cut(b, []byte("="))
	if !ok {
		f(b)
		return
	}
	maskName(name)
	value = bytes.Trim(value, `"`)
	f(value)
}

// maskTarget masks a request target: path segments that may not leave the node, user and password, query values.
func maskTarget(b []byte) {
	if i := bytes.IndexByte(b, '#'); i >= 0 {
		encoded(b[i+1:])
		b = b[:i]
	}
	path, query, ok := bytes.Cut(b, []byte("?"))
	if ok {
		for pair := range bytes.SplitSeq(query, []byte("&")) {
			maskPair(pair, encoded)
		}
	}
	if i := bytes.Index(path, []byte("://")); i >= 0 || len(path) > 0 && path[0] != '/' && path[0] != '*' {
		if i >= 0 {
			letters(path[:0])
			path = path[i+3:]
		}
		authority, rest, _ := bytes.Cut(path, []byte("/"))
		if at := bytes.LastIndexByte(authority, '@'); at >= 0 {
			encoded(authority[:at])
			authority = authority[at+1:]
		}
		maskHost(authority)
		path = rest
	}
	for s := range bytes.SplitSeq(path, []byte("/")) {
		maskSegment(s)
	}
}
