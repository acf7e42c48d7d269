package route

import (
	"strings"

	"github.com/spile/spile/proto/segment"
)

const (
	// Beyond these a template ends in "/*": a route is a name, and names are short.
	maxSegments      = 24
	maxTemplateBytes = 512
	// A literal longer than this is text in a path: {slug}.
	maxLiteralBytes = 64
)

// Template returns the template of a path, with or without query, raw or masked. Template(Template(p)) is Template(p).
func Template(path string) string {
	path = pathOnly(path)
	if path == "*" {
		return path // OPTIONS *
	}
	if isGRPC(path) {
		return path
	}
	var buf [maxTemplateBytes + 16]byte
	out := buf[:0]
	var ends [maxSegments]int // len(out) before each segment, for ".."
	n := 0
	for rest := path; rest != ""; {
		var seg string
		seg, rest, _ = strings.Cut(rest, "/")
		bare, _, _ := strings.Cut(seg, ";") // servers that know matrix parameters read "..;" as ".."
		switch dots(bare) {
		case 1:
			continue
		case 2:
			if n > 0 {
				n--
				out = out[:ends[n]]
			}
			continue
		}
		if seg == "" {
			continue
		}
		if n == maxSegments {
			return string(append(out, "/*"...))
		}
		start := len(out)
		out = appendSegment(append(out, '/'), seg)
		if len(out) > maxTemplateBytes || string(out[start:]) == "/"+segment.MaskMore {
			return string(append(out[:start], "/*"...))
		}
		ends[n] = start
		n++
	}
	if n == 0 {
		return "/"
	}
	// The common path is its own template.
	if string(out) == path {
		return path
	}
	return string(out)
}

// pathOnly drops query and fragment, and scheme and authority of a request line in absolute form (RFC 9112 3.2.2).
func pathOnly(path string) string {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	if path != "" && path[0] != '/' {
		if scheme, after, ok := strings.Cut(path, "://"); ok && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")) {
			_, path, _ = strings.Cut(after, "/")
		}
	}
	return path
}

// dots tells "." (1) and ".." (2), also percent-encoded, from everything else (RFC 3986 5.2.4).
func dots(seg string) int {
	if len(seg) > 6 {
		return 0
	}
	n := 0
	for ; seg != ""; n++ {
		switch {
		case seg[0] == '.':
			seg = seg[1:]
		case len(seg) >= 3 && seg[0] == '%' && seg[1] == '2' && seg[2]|0x20 == 'e':
			seg = seg[3:]
		default:
			return 0
		}
	}
	if n > 2 {
		return 0
	}
	return n
}

// isGRPC knows "/pkg.Service/Method": a dotted name that ends in a capitalised one, and a capitalised method. Such a path is
// a name as a whole, digits and all.
func isGRPC(path string) bool {
	if path == "" || path[0] != '/' || len(path) > maxTemplateBytes {
		return false
	}
	service, method, ok := strings.Cut(path[1:], "/")
	dot := strings.LastIndexByte(service, '.')
	return ok && dot > 0 && isName(service[dot+1:], true) && isName(method, true) && dotted(service[:dot]) &&
		!segment.Lex(service).IsPrivate() && !segment.Lex(method).IsPrivate()
}

func dotted(s string) bool {
	for part := range strings.SplitSeq(s, ".") {
		if !isName(part, false) {
			return false
		}
	}
	return true
}

// isName reports whether s is an identifier, with a capital first where wanted.
func isName(s string, capital bool) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && c != '_' && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && (!capital || s[0] >= 'A' && s[0] <= 'Z')
}
