package call

import (
	"bytes"
	"strings"

	"github.com/spile/spile/agent/parse"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// unread describes a response that was left out on purpose: its size, where that is known, and of HTTP/2 what a header
// block said whose status could not be resolved.
func (d *Describer) unread(c *v1.Content, m *parse.Message, h *head) {
	d.content(c, m, h, &coverage{})
	if m.BodyBytes == 0 {
		c.Bytes = nil
	}
}

// content describes one direction, behind the fields that c has already.
func (d *Describer) content(c *v1.Content, m *parse.Message, h *head, cover *coverage) {
	c.Bytes = some(c.Bytes)
	*c.Bytes, c.HeaderNames, c.Headers = m.BodyBytes, h.names, h.safeValues(m.Header)
	typ, room := "", c.ContentType
	c.ContentType = nil
	if h.contentType >= 0 {
		v, _, _ := strings.Cut(m.Header[h.contentType].Value, ";")
		typ = d.types.get(strings.TrimSpace(v), mediaType)
		c.ContentType = some(room)
		*c.ContentType = typ
	}
	cut := m.BodyTruncated || !m.Complete
	if cut {
		cover.truncated = true
	}
	if m.BodyBytes == 0 && len(m.Body) == 0 {
		return
	}
	if len(m.Body) == 0 {
		cover.noBody = true
		return
	}
	body, whole := m.Body, !cut
	if coding := strings.ToLower(strings.TrimSpace(h.value(m.Header, h.contentEncoding))); coding != "" && coding != "identity" {
		var all bool
		if body, all = d.unzip.inflate(coding, m.Body); body == nil {
			cover.noBody = true
			return
		}
		if !all {
			cover.truncated, whole = true, false
		}
	}
	switch {
	case isJSON(typ, body):
		d.describeJSON(c, body, whole, cover)
	case typ == "application/x-www-form-urlencoded":
		d.tree.reset("body")
		if !d.pairs(string(body), 0) {
			cover.truncated = true
		}
	default:
		return
	}
	begin := len(c.Fields)
	c.Fields = d.tree.fields(c.Fields)
	c.Shape = d.shape(c.Fields[begin:])
}

// isJSON goes by the media type (RFC 6839 names the +json suffix), and by the first byte where there is none.
func isJSON(typ string, body []byte) bool {
	switch {
	case typ == "application/json", typ == "text/json", strings.HasSuffix(typ, "+json"):
		return true
	case typ != "" && typ != "text/plain" && typ != "application/octet-stream":
		return false
	}
	b := bytes.TrimLeft(body, " \r\n\t")
	return len(b) > 1 && (b[0] == '{' && (b[1] == '"' || b[1] == '}' || b[1] == '\n' || b[1] == ' ' || b[1] == '\r') || b[0] == '[' && (b[1] == '{' || b[1] == '\n'))
}

// describeJSON fills the tree from a JSON text. Past what may be spent on it, only the records of a whole body are counted:
// where its end is missing their number is a lower bound anyway.
func (d *Describer) describeJSON(c *v1.Content, body []byte, whole bool, cover *coverage) {
	d.tree.reset("body")
	w := walk{d: d, records: -1}
	granted := d.effort.grant(d.now, len(body))
	d.scan.reset(body)
	for {
		if d.scan.pos > granted {
			if whole {
				w.skim(&d.scan)
			}
			cover.truncated = true
			c.Records = w.count
			return
		}
		t, raw := d.scan.next()
		switch t {
		case tokEnd:
			c.Records = w.count
			return
		case tokTruncated, tokInvalid:
			cover.truncated = true
			c.Records = w.count
			return
		}
		if !w.take(t, raw) {
			cover.truncated = true
		}
	}
}

// walk follows the scanner through the tree.
type walk struct {
	d       *Describer
	at      [maxDepth]int32 // node of each open container; -1 where it is not described
	depth   int
	key     int32 // node of the member that comes next
	records int   // depth of the outermost array, -1 before there is one
	count   uint32
	list    bool // the innermost open container is an array
	begun   bool // the outermost array has been left: another one at its depth does not count
}

// take handles one token. It reports false where something was left out.
func (w *walk) take(t token, raw []byte) bool {
	d := w.d
	switch t {
	case tokKey:
		w.key = -1
		if w.depth <= maxDepth && w.at[w.depth-1] >= 0 {
			w.key = d.tree.child(w.at[w.depth-1], d.text(raw))
			return w.key >= 0
		}
		return false
	case tokObjectEnd, tokArrayEnd:
		w.depth--
		if w.depth == w.records {
			w.begun = true
		}
		open := d.scan.stack
		w.list = len(open) > 0 && open[len(open)-1] == '['
		return true
	}
	n := w.node()
	whole := n >= 0
	switch t {
	case tokObject, tokArray:
		if n >= 0 {
			typ := typeObject
			if t == tokArray {
				typ = typeArray
			}
			d.tree.see(n, typ, 0)
		}
		if t == tokArray && (w.records < 0 || w.depth < w.records) {
			w.records, w.count, w.begun = w.depth, 0, false
		}
		if w.depth < maxDepth {
			w.at[w.depth] = n
		} else {
			whole = false
		}
		w.depth++
		w.list = t == tokArray
		return whole
	case tokString:
		if n >= 0 {
			d.scalar(n, typeString, d.text(raw), false)
		}
	case tokInteger:
		if n >= 0 {
			d.scalar(n, typeInteger, raw, false)
		}
	case tokNumber:
		if n >= 0 {
			d.scalar(n, typeNumber, raw, false)
		}
	case tokBoolean:
		if n >= 0 {
			d.scalar(n, typeBoolean, raw, false)
		}
	case tokNull:
		if n >= 0 {
			d.scalar(n, typeNull, nil, false)
		}
	}
	return whole
}

// node is where the value that comes next belongs.
func (w *walk) node() int32 {
	switch {
	case w.depth == 0:
		return 0
	case !w.list:
		return w.key
	}
	parent := w.depth - 1
	if parent == w.records && !w.begun {
		w.count++
	}
	if parent >= maxDepth || w.at[parent] < 0 {
		return -1
	}
	return w.d.tree.element(w.at[parent])
}
