package mask

import (
	"bytes"

	"github.com/spile/spile/proto/segment"
)

// random is what a secret becomes: it is judged a secret itself, so that a masked path has the same route.
const random = "q7Xz9Kj4Wv2Bp8Rt"

// pattern fills b with it.
func pattern(b []byte) {
	for i := range b {
		b[i] = random[i%len(random)]
	}
}

// letters turns letters into 'x' and digits into '0' and keeps the marks that give a value its shape.
func letters(b []byte) {
	for i, c := range b {
		switch {
		case c >= '0' && c <= '9':
			b[i] = '0'
		case c >= 'A' && c <= 'Z':
			b[i] = 'X'
		case c == ' ', c == '@', c == '.', c == '-', c == '_', c == ':', c == '/', c == ',', c == ';', c == '=', c == '"', c == '\n', c == '\r', c == '\t':
		default:
			b[i] = 'x'
		}
	}
}

// text turns a value into a dummy of its kind: a card stays a card, a token a token.
func text(b []byte) {
	switch k := segment.LexValue(b); {
	case len(b) == 0:
	case k == segment.Card && segment.IsCard(b):
		card(b)
	case k == segment.Card:
		letters(b)
	case k == segment.Secret && segment.IsToken(b):
		pattern(b[segment.TokenPrefix(b):])
	case k == segment.Secret:
		pattern(b)
	case k == segment.IBAN:
		copy(b, iban(len(b)))
	case k == segment.SSN:
		copy(b, "078-05-1120")
	case k == segment.Integer:
		for i := range b {
			b[i] = '1'
		}
	case k == segment.UUID, k == segment.ObjectID, k == segment.Hex:
		hex(b)
	case string(b) == "true", string(b) == "false", string(b) == "null":
	default:
		letters(b)
	}
}

// hex keeps which digits are letters; an ObjectID keeps looking like one.
func hex(b []byte) {
	for i, c := range b {
		switch {
		case c == '-':
		case c >= '0' && c <= '9':
			b[i] = '0'
		default:
			b[i] = 'a'
		}
	}
	if len(b) == 24 {
		copy(b, "5b")
	}
}

// card writes a number that passes the check digit, in the same grouping.
func card(b []byte) {
	numbers := map[int]string{14: "36000000000008", 15: "340000000000009", 16: "4000000000000002", 19: "4000000000000000006"}
	n := 0
	for _, c := range b {
		if c >= '0' && c <= '9' {
			n++
		}
	}
	digits := numbers[n]
	if digits == "" {
		pattern(b)
		return
	}
	for i, c := range b {
		switch {
		case c >= '0' && c <= '9':
			b[i], digits = digits[0], digits[1:]
		case c != ' ' && c != '-':
			b[i] = 'x'
		}
	}
}

// iban is an account number of n characters whose check digits are right: of country XX, account zero.
func iban(n int) string {
	digits := make([]byte, n)
	for i := range digits {
		digits[i] = '0'
	}
	copy(digits, "XX")
	for check := byte(0); check < 98; check++ {
		digits[2], digits[3] = '0'+check/10, '0'+check%10
		if segment.IsIBAN(digits) {
			break
		}
	}
	return string(digits)
}

// maskSegment and maskName write a dummy over what may not leave the node, of the same kind where its length allows.
func maskSegment(b []byte) {
	if k := segment.Lex(string(b)); k.IsPrivate() {
		dummy(b, k)
	}
}

func maskName(b []byte) {
	s := string(b)
	if segment.MaskName(s) == s {
		return
	}
	if k := segment.Lex(s); k.IsPrivate() {
		dummy(b, k)
		return
	}
	if len(b) > 64 {
		pattern(b)
	}
	// An identifier in place of a name: it folds to {id}, and its hash would be the same.
	text(b)
}

// dummy writes a segment of kind k.
func dummy(b []byte, k segment.Kind) {
	was := len(b)
	switch k {
	case segment.Secret:
		pattern(b)
	case segment.Email:
		blank(b)
		if was >= 6 {
			b[1] = '@'
			b[was-3] = '.'
		}
	case segment.Card:
		card(b)
	case segment.Phone:
		for i := range b {
			b[i] = '0'
		}
		b[0] = '+'
		if was > 16 {
			copy(b, "+00000000")
			for i := 9; i < was; i++ {
				b[i] = '-'
			}
		}
	case segment.IBAN:
		copy(b, iban(was))
	case segment.SSN:
		blank(b)
		copy(b, "078-05-1120")
	default:
		blank(b)
	}
}

// encoded masks a percent-encoded value.
func encoded(b []byte) {
	if bytes.IndexByte(b, '%') < 0 {
		text(b)
		return
	}
	for i := 0; i < len(b); i++ {
		if b[i] != '%' || i+2 >= len(b) || !isHexDigit(b[i+1]) || !isHexDigit(b[i+2]) {
			letters(b[i : i+1])
			continue
		}
		switch b[i+1] {
		case '2':
			if c := b[i+2]; c != '0' && c|0x20 != 'f' && c|0x20 != 'c' {
				b[i+1], b[i+2] = '7', '8'
			}
		case '3':
			b[i+2] = '0'
		case '4':
			if b[i+2] != '0' {
				b[i+1], b[i+2] = '7', '8'
			}
		default:
			b[i+1], b[i+2] = '7', '8'
		}
		i += 2
	}
}
