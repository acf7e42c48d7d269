// Package segment tells what one path segment is, and hides it where it must not leave the node.
//
// Agent and collector share it, so that both see the same thing: the agent masks a path before it ships the call, the
// collector makes a route of it. Lex gives the same Kind for a value and for its mask:
//
//	"users"                 Word     stays             "42"                    Integer  stays
//	"ghp_x7Kq…"             Secret   → "{secret}"      "joe%40example.com"     Email    → "{email}"
//	"{secret}"              Secret   stays             "{email}"               Email    stays
//
// A segment is judged once, left to right, after percent-decoding into a fixed buffer; nothing is allocated unless the
// answer differs from the input. Identifiers that name an object (numbers, UUIDs, ULIDs, ObjectIDs, short base62) leave
// the node, because detection needs them. Whatever could be a credential does not: known token formats, hex of 16
// digits and more, 16 characters and more with a stretch that no language or naming habit explains (see random.go).
// Where the two cannot be told apart, the segment is masked. What is lost then is one readable id in a path; the keyed
// hash in the call's fields still tells two objects apart.
package segment

import "strings"

// Kind is what a segment is.
type Kind uint8

const (
	Empty    Kind = iota
	Word          // a name: words, slugs, camelCase; stays literal in a route
	Version       // v1, v2beta1
	Locale        // de-DE, pt_BR
	File          // a name with a known extension: report.pdf, 42.json
	Integer       // up to 19 digits
	Number        // -3.14, 1.2.3
	UUID          // 8-4-4-4-12
	ULID          // 26 characters of Crockford base32 that begin with a time
	ObjectID      // 24 hex digits that begin with a time
	Hex           // 8 to 15 hex digits, letters and digits mixed
	ID            // short base62 or base64url
	Prefixed      // cus_9s6XKzkNRiz8i3, ORD-100017
	Date          // 2026-11-21, with or without time
	IP            // an address of either family
	Secret        // a credential, or random enough to be one
	Email         // joe@example.com
	Card          // a payment card number (ISO/IEC 7812, Luhn)
	Phone         // +49 30 901820 (E.164)
	IBAN          // an account number (ISO 13616, mod 97)
	SSN           // 078-05-1120
	Folded        // "*", {id}, {more}: names that were folded before
)

var kinds = [...]string{"empty", "word", "version", "locale", "file", "integer", "number", "uuid", "ulid", "objectid", "hex",
	"id", "prefixed", "date", "ip", "secret", "email", "card", "phone", "iban", "ssn", "folded"}

func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k]
	}
	return "unknown"
}

// IsName reports whether a segment of this kind names a resource, so that a route keeps it as it is.
func (k Kind) IsName() bool { return k <= File }

// IsPrivate reports whether a segment of this kind must not leave the node.
func (k Kind) IsPrivate() bool { return k >= Secret && k <= SSN }

// maxBytes is the longest decoded segment that is judged. A longer one is data, not a name, and counts as a secret.
const maxBytes = 256

// Lex tells what a raw path segment is. Percent-encoding is looked through once.
func Lex(s string) Kind {
	if k, ok := known(s); ok {
		return k
	}
	var buf [maxBytes]byte
	n := decode(&buf, s)
	if n < 0 {
		return Secret
	}
	return classify(buf[:n])
}

// LexValue tells what a value outside a URL is; nothing is decoded. Values longer than a segment are judged by their
// first 256 bytes and never taken for a secret by their length alone.
func LexValue(b []byte) Kind {
	if len(b) > maxBytes {
		b = b[:maxBytes]
	}
	return classify(b)
}

// known answers for the empty segment and the mask names.
func known(s string) (Kind, bool) {
	switch {
	case s == "":
		return Empty, true
	case s == "*":
		return Folded, true
	case s[0] != '{':
		return 0, false
	}
	for k, m := range masks {
		if m != "" && m == s {
			return Kind(k), true
		}
	}
	return Folded, s == MaskID || s == MaskMore
}

// decode undoes percent-encoding into buf; -1 when the result does not fit. A stray '%' stands for itself.
func decode(buf *[maxBytes]byte, s string) int {
	if len(s) <= maxBytes && strings.IndexByte(s, '%') < 0 {
		return copy(buf[:], s)
	}
	n := 0
	for i := 0; i < len(s); i++ {
		if n == maxBytes {
			return -1
		}
		c := s[i]
		if c == '%' && i+2 < len(s) {
			if hi, lo := unhex(s[i+1]), unhex(s[i+2]); hi < 16 && lo < 16 {
				c = hi<<4 | lo
				i += 2
			}
		}
		buf[n] = c
		n++
	}
	return n
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}

// classify is Lex on decoded bytes. Exact shapes come first, then what hides a credential, then what is left.
func classify(b []byte) Kind {
	if len(b) == 0 {
		return Empty
	}
	if len(b) == 36 && isUUID(b) {
		return UUID
	}
	s := survey(b)
	if s.digits == len(b) {
		return digitsOnly(b)
	}
	if s.digits > 0 {
		if k := exact(b, &s); k != Empty {
			return k
		}
	}
	if s.token || s.random() {
		return Secret
	}
	if s.at > 0 && holdsEmail(b) {
		return Email
	}
	if s.digitRun >= 13 {
		if holdsCard(b, false) {
			return Card
		}
		if s.digitRun > 19 {
			return Secret
		}
	}
	return rest(b, &s)
}

// digitsOnly splits numbers from cards and from what is too long to be a number.
func digitsOnly(b []byte) Kind {
	switch {
	case IsCard(b):
		return Card
	case len(b) > 19:
		return Secret
	}
	return Integer
}

// exact knows the shapes that are identifiers in full, however random they look.
func exact(b []byte, s *facts) Kind {
	switch {
	case len(b) == 26 && isULID(b):
		return ULID
	case len(b) == 24 && isObjectID(b, s):
		return ObjectID
	case len(b) == 11 && isSSN(b):
		return SSN
	case len(b) >= 10 && isDate(b):
		return Date
	case b[0] == '+' && isPhone(b):
		return Phone
	case s.upper >= 2 && s.digits >= 8 && IsIBAN(b):
		return IBAN
	case s.letters() == 0 && isNumber(b):
		if isIPv4(b) {
			return IP
		}
		return Number
	case s.colons >= 2 && isIPv6(b):
		return IP
	case (b[0] == 'v' || b[0] == 'V') && isVersion(b):
		return Version
	case isKnownPrefix(b):
		return Prefixed
	}
	return Empty
}

// rest sorts what holds neither a secret nor a person.
func rest(b []byte, s *facts) Kind {
	switch {
	case isLocale(b):
		return Locale
	case s.dots > 0 && isFile(b):
		return File
	case s.digits == 0:
		return Word
	case s.hexRun == len(b) && len(b) >= 8:
		return Hex
	case isPrefixed(b):
		return Prefixed
	case s.alnum() == len(b)-s.dashes && (s.digits >= 2 && s.switches >= 3 || s.digits >= 4 && s.peak >= 24):
		return ID
	}
	return Word
}
