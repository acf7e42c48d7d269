package call

import (
	"bytes"

	"github.com/spile/spile/proto/segment"
)

// Data classes of a field.
const (
	classEmail    = "email"
	classCard     = "card"
	classToken    = "token"
	classPassword = "password"
	classPhone    = "phone"
	classIBAN     = "iban"
	classSSN      = "ssn"
)

// classes is the one table: the first row whose test holds gives the class. Tests see at most maxValue bytes.
var classes = [...]struct {
	name string
	is   func(t traits, v []byte, f look) bool
}{
	{classPassword, func(t traits, v []byte, f look) bool { return t&namesPassword != 0 && len(v) > 0 }},
	{classToken, func(t traits, v []byte, f look) bool { return len(v) >= 16 && holdsToken(v) }},
	{classCard, func(t traits, v []byte, f look) bool { return f.digits >= 13 && segment.HoldsCard(v) }},
	{classEmail, func(t traits, v []byte, f look) bool { return f.at && segment.HoldsEmail(v) }},
	{classIBAN, func(t traits, v []byte, f look) bool { return f.digits >= 8 && f.capital && segment.IsIBAN(v) }},
	{classPhone, func(t traits, v []byte, f look) bool { return f.digits >= 8 && segment.IsPhone(v) }},
	{classSSN, func(t traits, v []byte, f look) bool { return f.digits == 9 && segment.IsSSN(v) }},
	{classToken, func(t traits, v []byte, f look) bool {
		return t&namesSecret != 0 && len(v) >= 8 && segment.LexValue(v) == segment.Secret
	}},
}

// maxValue bounds what of one value is looked at.
const maxValue = 1024

// leastClassified is the length of the shortest value that has a class without its name and without an '@': a telephone
// number.
const leastClassified = 9

// look is what one cheap pass tells, so that most values pass no test at all.
type look struct {
	digits  int
	at      bool
	capital bool
}

func classify(t traits, v []byte) string {
	if len(v) < leastClassified && t&(namesPassword|namesSecret) == 0 && bytes.IndexByte(v, '@') < 0 {
		return "" // most values
	}
	if len(v) > maxValue {
		v = v[:maxValue]
	}
	var f look
	for _, c := range v {
		switch {
		case c >= '0' && c <= '9':
			f.digits++
		case c == '@':
			f.at = true
		}
	}
	f.capital = len(v) > 1 && v[0] >= 'A' && v[0] <= 'Z' && v[1] >= 'A' && v[1] <= 'Z'
	for i := range classes {
		if classes[i].is(t, v, f) {
			return classes[i].name
		}
	}
	return ""
}

// holdsToken reports whether v is, or carries after a scheme word, a credential of a published format or a private key.
func holdsToken(v []byte) bool {
	if segment.IsToken(v) {
		return true
	}
	if i := bytes.IndexByte(v, ' '); i > 0 && i < 16 && segment.IsToken(v[i+1:]) {
		return true
	}
	return bytes.HasPrefix(v, []byte("-----BEGIN ")) && bytes.Contains(v, []byte("PRIVATE KEY-----"))
}

// classOfKind is the class of a path segment.
func classOfKind(k segment.Kind) string {
	switch k {
	case segment.Secret:
		return classToken
	case segment.Email:
		return classEmail
	case segment.Card:
		return classCard
	case segment.Phone:
		return classPhone
	case segment.IBAN:
		return classIBAN
	case segment.SSN:
		return classSSN
	}
	return ""
}

// scalar notes a value at n: its type, class, and, for what looks like the identifier of an object, its keyed hash.
// The hash of a field that has several values is dropped: it would name one of them only.
func (d *Describer) scalar(n int32, typ fieldType, v []byte, always bool) {
	f := d.tree.see(n, typ, len(v))
	if typ == typeBoolean || typ == typeNull {
		return
	}
	if c := classify(f.traits, v); c != "" {
		if f.class == "" {
			f.class = c
		}
		if f.class == c {
			f.classified++
		}
	}
	switch {
	case f.count > 1:
		f.hash = ""
	case len(v) > 0 && len(v) <= 128 && (always || f.traits&namesObject != 0) && f.class != classPassword:
		k := segment.LexValue(v)
		if k >= segment.Integer && k <= segment.Prefixed && k != segment.Number || k == segment.Secret || k == segment.Email {
			f.hash = d.hashBytes(domainObject, v)
		}
	}
}
