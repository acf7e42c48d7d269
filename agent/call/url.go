package call

import (
	"strconv"
	"strings"

	"github.com/spile/spile/agent/parse"
	v1 "github.com/spile/spile/proto/spile/v1"

	"github.com/spile/spile/proto/segment"
)

// Bounds of what a URL may add to a call.
const (
	maxPathBytes    = 2048
	maxPathSegments = 64
	maxPathFields   = 8
	maxNames        = 64 // distinct names in one place
	maxAuthority    = 255
)

// target is a request target (RFC 9112 section 3.2) taken apart. Its parts are values.
type target struct {
	path, query, userinfo, authority string
}

func splitTarget(s string) target {
	var t target
	if i := strings.IndexByte(s, '#'); i >= 0 {
		s = s[:i]
	}
	if i := strings.IndexByte(s, '?'); i >= 0 {
		s, t.query = s[:i], s[i+1:]
	}
	t.path = s
	if s == "" || s[0] == '/' || s == "*" {
		return t
	}
	rest, absolute := s, false
	if i := strings.Index(s, "://"); i >= 0 {
		rest, absolute = s[i+3:], true
	}
	t.authority, t.path = rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		t.authority, t.path = rest[:i], rest[i:]
	}
	if i := strings.LastIndexByte(t.authority, '@'); i >= 0 {
		t.userinfo, t.authority = t.authority[:i], t.authority[i+1:]
	}
	if absolute && t.path == "" {
		t.path = "/"
	}
	return t
}

// authority is Host or :authority, lower case, its labels masked; the target's own where the header is absent.
func (d *Describer) authority(header, fromTarget string) string {
	a := header
	if a == "" {
		a = fromTarget
	}
	if i := strings.LastIndexByte(a, '@'); i >= 0 {
		a = a[i+1:]
	}
	if len(a) > maxAuthority {
		return segment.MaskSecret
	}
	return d.hosts.get(a, maskAuthority)
}

func maskAuthority(a string) string {
	// The mask looks at the letters as they were sent: case is half of what tells a key from a word.
	host, port := a, ""
	if i := strings.LastIndexByte(a, ':'); i >= 0 && !strings.HasSuffix(a, "]") {
		host, port = a[:i], a[i:]
		if _, err := strconv.ParseUint(port[1:], 10, 16); err != nil {
			port = ""
		}
	}
	return clean(strings.ToLower(segment.MaskHost(host) + port))
}

// maskPath masks each segment and bounds the whole.
func (d *Describer) maskPath(p string) string {
	if p == "" {
		return ""
	}
	b := d.path[:0]
	n := 0
	for rest, more := p, true; more; n++ {
		var s string
		s, rest, more = strings.Cut(rest, "/")
		if n > 0 {
			b = append(b, '/')
		}
		if d.kinds.of(s).IsPrivate() {
			s = segment.Mask(s)
		}
		if n > maxPathSegments || len(b)+len(s) > maxPathBytes {
			b = append(b, segment.MaskMore...)
			break
		}
		b = append(b, s...)
	}
	d.path = b
	return clean(string(b))
}

// urlFields describes the query, the identifiers in the path and the cookies of a request.
func (d *Describer) urlFields(fields []*v1.Field, t target, header []parse.Field, h *head) []*v1.Field {
	fields = d.pathFields(fields, t.path)
	if t.query != "" {
		d.tree.reset("query")
		d.pairs(t.query, 0)
		fields = d.tree.fields(fields)
	}
	if h.cookies {
		fields = cookies(fields, header, "cookie")
	}
	return fields
}

// pathNames are the fields of the first segments.
var pathNames = [...]string{"path.0", "path.1", "path.2", "path.3", "path.4", "path.5", "path.6", "path.7"}

// pathFields gives each identifier in a path its keyed hash: "path.1" is the second segment.
func (d *Describer) pathFields(fields []*v1.Field, p string) []*v1.Field {
	p = strings.TrimPrefix(p, "/")
	for i, more := 0, p != ""; more && i < maxPathSegments && len(fields) < maxPathFields; i++ {
		var s string
		s, p, more = strings.Cut(p, "/")
		name, _ := segment.SplitExt(s)
		k := d.kinds.of(name)
		if k.IsName() || k == segment.Folded || k == segment.Date || k == segment.IP {
			continue
		}
		place := ""
		if i < len(pathNames) {
			place = pathNames[i]
		} else {
			place = "path." + strconv.Itoa(i)
		}
		var f *v1.Field
		fields, f = addField(fields)
		*f = v1.Field{Path: place, Type: "string", Class: classOfKind(k), Length: uint32(len(s)), Count: 1, Hash: d.hash(domainObject, name)}
		if k == segment.Integer {
			f.Type = "integer"
		}
	}
	return fields
}

// pairs adds urlencoded pairs (the WHATWG form encoding) to the tree. It reports whether all could be added.
func (d *Describer) pairs(s string, at int32) bool {
	for s != "" {
		var pair string
		pair, s, _ = strings.Cut(s, "&")
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		d.buf = unescapeForm(d.buf[:0], name)
		n := d.tree.child(at, d.buf)
		if n < 0 {
			return false
		}
		d.buf = unescapeForm(d.buf[:0], value)
		d.scalar(n, lexicalType(d.buf), d.buf, true)
	}
	return true
}

func unescapeForm(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '+':
			c = ' '
		case c == '%' && i+2 < len(s):
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				c = byte(v)
				i += 2
			}
		}
		dst = append(dst, c)
	}
	return dst
}

// lexicalType tells the type that a text value has by its looks.
func lexicalType(b []byte) fieldType {
	switch {
	case len(b) == 0:
		return typeString
	case string(b) == "true", string(b) == "false":
		return typeBoolean
	}
	digits, dots := 0, 0
	for i, c := range b {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c == '.' && dots == 0 && i > 0:
			dots++
		case c == '-' && i == 0:
		default:
			return typeString
		}
	}
	switch {
	case digits == 0 || len(b) > 20:
		return typeString
	case dots > 0:
		return typeNumber
	}
	return typeInteger
}
