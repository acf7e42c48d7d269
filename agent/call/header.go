package call

import (
	"strconv"
	"strings"
	"time"

	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/proto/segment"
	v1 "github.com/spile/spile/proto/spile/v1"
)

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// safeHeaders is the closed list of headers whose values go into a call. Each value is read by a grammar and written
// anew from a fixed vocabulary, numbers and times: no function here returns any part of its input that is not of these.
var safeHeaders = map[string]func(string) string{
	"access-control-allow-credentials": oneOf("true", "false"),
	"access-control-allow-origin":      allowOrigin,
	"allow":                            manyOf("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"),
	"cache-control":                    manyOf("no-store", "no-cache", "private", "public", "must-revalidate", "immutable", "max-age", "s-maxage"),
	"content-encoding":                 manyOf("gzip", "br", "deflate", "zstd", "identity", "compress"),
	"deprecation":                      deprecation,
	"strict-transport-security":        manyOf("max-age", "includesubdomains", "preload"),
	"sunset":                           httpDate,
	"www-authenticate":                 challenge,
	"x-content-type-options":           oneOf("nosniff"),
	"x-frame-options":                  oneOf("deny", "sameorigin"),
}

// safeValues are what may be told of the values of a block; nil where that is nothing.
func (h *head) safeValues(header []parse.Field) map[string]string {
	var out map[string]string
	for _, i := range h.safe {
		v := safeHeaders[header[i].Name](strings.TrimSpace(header[i].Value))
		if v == "" {
			continue
		}
		if out == nil {
			out = make(map[string]string, len(h.safe))
		}
		name := commonNames[header[i].Name]
		if _, ok := out[name]; !ok {
			out[name] = v
		}
	}
	return out
}

// oneOf keeps a value that is one of the words.
func oneOf(words ...string) func(string) string {
	return func(v string) string {
		for _, w := range words {
			if strings.EqualFold(v, w) {
				return w
			}
		}
		return ""
	}
}

// manyOf keeps those words of a list that are known; max-age keeps its number of seconds, to the next shorter of a few.
func manyOf(words ...string) func(string) string {
	pick := oneOf(words...)
	return func(v string) string {
		var out []string
		for part := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == ',' || r == ';' }) {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			w := pick(strings.TrimSpace(name))
			if w == "" || contains(out, w) {
				continue
			}
			if n, err := strconv.ParseUint(strings.Trim(value, `" `), 10, 31); err == nil && strings.HasSuffix(w, "age") {
				w += "=" + strconv.FormatUint(roundAge(n), 10)
			}
			out = append(out, w)
		}
		return strings.Join(out, ", ")
	}
}

// roundAge takes the free digits out of a lifetime in seconds.
func roundAge(n uint64) uint64 {
	for _, step := range [...]uint64{63072000, 31536000, 15552000, 2592000, 604800, 86400, 3600, 300, 60} {
		if n >= step {
			return step
		}
	}
	return min(n, 1)
}

func allowOrigin(v string) string {
	switch {
	case v == "*":
		return "*"
	case v == "null":
		return "null"
	case strings.HasPrefix(v, "https://"):
		return "https"
	case strings.HasPrefix(v, "http://"):
		return "http"
	}
	return ""
}

func httpDate(v string) string {
	t, err := time.Parse("Mon, 02 Jan 2006 15:04:05 GMT", v) // IMF-fixdate, RFC 9110 section 5.6.7
	if err != nil {
		return ""
	}
	return t.Format(time.DateOnly)
}

// deprecation reads RFC 9745 ("@" and seconds) and its drafts (true, a date).
func deprecation(v string) string {
	if v == "true" {
		return "true"
	}
	if strings.HasPrefix(v, "@") {
		n, err := strconv.ParseInt(v[1:], 10, 40)
		if err != nil || n < 0 {
			return ""
		}
		return time.Unix(n, 0).UTC().Format(time.DateOnly)
	}
	return httpDate(v)
}

// challenge is the scheme of the first challenge.
func challenge(v string) string {
	word, _, _ := strings.Cut(v, " ")
	return oneOf("basic", "bearer", "digest", "negotiate", "ntlm", "dpop")(word)
}

// mediaType is the media type of a Content-Type without its parameters, lower case. Types that are not registered trees
// of short words are masked name by name.
func mediaType(v string) string {
	typ, sub, ok := strings.Cut(v, "/")
	if !ok || len(typ) > 32 || len(sub) > 96 {
		return ""
	}
	return clean(strings.ToLower(maskedName(typ) + "/" + segment.MaskHost(sub)))
}

// cookies describes cookies as fields; values only give their length and whether they are secrets. Cookie has them all in
// one line, Set-Cookie one to a line with its attributes behind it.
func cookies(out []*v1.Field, header []parse.Field, from string) []*v1.Field {
	begin := len(out)
	for _, h := range header {
		if h.Name != from {
			continue
		}
		for pair := range strings.SplitSeq(h.Value, ";") {
			out = addCookie(out, begin, pair)
			if from == "set-cookie" {
				break
			}
		}
	}
	return out
}

func addCookie(out []*v1.Field, begin int, pair string) []*v1.Field {
	name, v, ok := strings.Cut(strings.TrimSpace(pair), "=")
	if !ok || name == "" || v == "" {
		return out
	}
	path := "cookie." + maskedName(name)
	if len(out)-begin >= maxNames {
		path = "cookie." + segment.MaskOther
	}
	for _, f := range out[begin:] {
		if f.Path == path {
			f.Count++
			return out
		}
	}
	out, f := addField(out)
	*f = v1.Field{Path: path, Type: "string", Length: uint32(len(v)), Count: 1, Class: classify(traitsOf(name), []byte(v))}
	if traitsOf(name)&(namesSession|namesBearer) != 0 {
		f.Class = classToken
	}
	return out
}
