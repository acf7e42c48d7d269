package segment

import "strings"

// The closed list of masks. A mask stands for a whole segment or name.
const (
	MaskSecret = "{secret}"
	MaskEmail  = "{email}"
	MaskCard   = "{card}"
	MaskPhone  = "{phone}"
	MaskIBAN   = "{iban}"
	MaskSSN    = "{ssn}"
	MaskID     = "{id}"   // an identifier where a name should be
	MaskMore   = "{more}" // the rest of a path beyond its bounds
	MaskOther  = "*"      // names beyond the distinct names that one place may have
)

// masks gives the mask of each private kind.
var masks = [...]string{Secret: MaskSecret, Email: MaskEmail, Card: MaskCard, Phone: MaskPhone, IBAN: MaskIBAN, SSN: MaskSSN}

// Mask returns a path segment as it may leave the node.
func Mask(s string) string {
	if k := Lex(s); k.IsPrivate() {
		return masks[k]
	}
	return s
}

// MaskName returns a JSON key or the name of a parameter, header or cookie as it may leave the node. A name that is an
// identifier is a value: it becomes {id}, so that objects used as maps have one field and not one per key.
func MaskName(s string) string {
	k := Lex(s)
	switch {
	case k.IsPrivate():
		return masks[k]
	case k >= Integer && k <= IP:
		return MaskID
	case len(s) > 64:
		return MaskSecret
	}
	return s
}

// MaskHeaderName is MaskName for names whose case was folded: half of what tells a key from a word is gone, so a name
// needs less to be taken for one.
func MaskHeaderName(s string) string {
	m := MaskName(s)
	if m != s || len(s) < minRandom {
		return m
	}
	if f := survey([]byte(s)); f.peak >= foldedAlarm {
		return MaskSecret
	}
	return s
}

// MaskHost masks the labels of a host name (or an authority with port), each by itself.
func MaskHost(host string) string {
	start, changed := 0, false
	for i := 0; i <= len(host) && !changed; i++ {
		if i == len(host) || host[i] == '.' {
			changed = Lex(host[start:i]).IsPrivate()
			start = i + 1
		}
	}
	if !changed {
		return host
	}
	labels := strings.Split(host, ".")
	for i, l := range labels {
		labels[i] = Mask(l)
	}
	return strings.Join(labels, ".")
}
