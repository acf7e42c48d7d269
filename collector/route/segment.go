package route

import (
	"strings"

	"github.com/spile/spile/proto/segment"
)

const (
	paramID     = "{id}"
	paramNumber = "{number}"
	paramDate   = "{date}"
	paramIP     = "{ip}"
	paramFile   = "{file}"
	paramSlug   = "{slug}"
)

// appendSegment appends what stands for one segment. What is private is judged as a whole and first, because that is how it
// was masked on the node.
func appendSegment(out []byte, seg string) []byte {
	kind := segment.Lex(seg)
	if kind.IsPrivate() {
		return append(out, segment.Mask(seg)...)
	}
	seg = canonical(seg)
	// A matrix parameter (";v=1") says which representation, not which resource.
	if i := strings.IndexByte(seg, ';'); i > 0 {
		seg = seg[:i]
		if kind = segment.Lex(seg); kind.IsPrivate() {
			return append(out, segment.Mask(seg)...)
		}
	}
	if kind == segment.Word || kind == segment.Number {
		if head, inner, tail, ok := composite(seg); ok {
			return append(append(append(out, head...), param(inner)...), tail...)
		}
	}
	if p := paramOf(kind, seg); p != "" {
		return append(out, p...)
	}
	if len(seg) > maxLiteralBytes {
		return append(out, paramSlug...)
	}
	return append(out, seg...)
}

// composite takes a segment apart that has an identifier in a frame: a custom verb (42:cancel, Google AIP-136), a key in
// parentheses (Users(42), OData 4.01), a list (1,2,3).
func composite(seg string) (head, inner, tail string, ok bool) {
	if len(seg) > maxLiteralBytes {
		return "", "", "", false
	}
	if i := strings.LastIndexByte(seg, ':'); i > 0 && isVerb(seg[i+1:]) && param(seg[:i]) != "" {
		return "", seg[:i], seg[i:], true
	}
	if i := strings.IndexByte(seg, '('); i > 0 && seg[len(seg)-1] == ')' {
		head, inner = seg[:i+1], strings.Trim(seg[i+1:len(seg)-1], "'")
		return head, inner, ")", param(inner) != "" && isName(seg[:i], false)
	}
	if first, _, found := strings.Cut(seg, ","); found {
		for part := range strings.SplitSeq(seg, ",") {
			if param(part) == "" {
				return "", "", "", false
			}
		}
		return "", first, "", true
	}
	return "", "", "", false
}

// isVerb reports whether s is letters only, lower case first.
func isVerb(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i] | 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return s != "" && s[0] >= 'a'
}

// param is the parameter that stands for s, or "" where s is a name.
func param(s string) string {
	kind := segment.Lex(s)
	if kind.IsPrivate() {
		return segment.Mask(s)
	}
	return paramOf(kind, s)
}

func paramOf(kind segment.Kind, seg string) string {
	switch kind {
	case segment.Integer, segment.UUID, segment.ULID, segment.ObjectID, segment.Hex, segment.ID, segment.Prefixed:
		return paramID
	case segment.Number:
		return paramNumber
	case segment.Date:
		return paramDate
	case segment.IP:
		return paramIP
	case segment.File:
		if hasDigit(seg) {
			return paramFile
		}
	case segment.Folded:
		return seg // {id}, {more} and *, as the node wrote them
	case segment.Word:
		if isParam(seg) {
			return seg
		}
		if isCode(seg) {
			return paramID
		}
	}
	return ""
}

// isCode knows short random ids by how often they change between lower case, upper case and digits: xK9mQp, AB3XK9. The
// capital that begins a word is no change, so names stay: getOAuth2Token changes 4 times in 14 characters, base64url twice.
func isCode(s string) bool {
	const minBytes, maxBytes = 6, 16
	if len(s) < minBytes || len(s) > maxBytes {
		return false
	}
	changes, digits, lower := 0, 0, 0
	var prev byte
	for i := 0; i < len(s); i++ {
		var class byte
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			class = 'd'
			digits++
		case c >= 'a' && c <= 'z':
			class = 'l'
			lower++
		case c >= 'A' && c <= 'Z':
			class = 'u'
		default:
			return false
		}
		if i > 0 && class != prev && !(prev == 'u' && class == 'l') {
			changes++
		}
		prev = class
	}
	if digits == 0 {
		return false
	}
	return lower == 0 && changes >= 2 || lower < len(s)-digits && changes*3 >= len(s)
}

// isParam knows the names above that the lexer does not.
func isParam(s string) bool {
	switch s {
	case paramNumber, paramDate, paramIP, paramFile, paramSlug:
		return true
	}
	return false
}

// hasDigit looks for a digit outside of percent-encoding in a canonical segment.
func hasDigit(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			i += 2
		} else if s[i] >= '0' && s[i] <= '9' {
			return true
		}
	}
	return false
}

// canonical spells a segment in one way: what needs no encoding is decoded, the rest encoded with capital digits (RFC 3986
// 6.2.2). Braces stay, they are how masks are written.
func canonical(s string) string {
	i := 0
	for i < len(s) && plain(s[i]) {
		i++
	}
	if i == len(s) {
		return s
	}
	const hex = "0123456789ABCDEF"
	out := append(make([]byte, 0, len(s)+16), s[:i]...)
	for ; i < len(s); i++ {
		c, encoded := s[i], false
		if c == '%' && i+2 < len(s) {
			if hi, lo := unhex(s[i+1]), unhex(s[i+2]); hi < 16 && lo < 16 {
				c, encoded = hi<<4|lo, true
				i += 2
			}
		}
		if unreserved(c) || !encoded && plain(c) {
			out = append(out, c)
		} else {
			out = append(out, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(out)
}

func unreserved(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// plain reports whether a byte stays as it is when it comes unencoded.
func plain(c byte) bool {
	return unreserved(c) || strings.IndexByte("!$&'()*+,;=:@{}", c) >= 0
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 16
}
