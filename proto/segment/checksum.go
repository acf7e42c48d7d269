package segment

// IsCard reports whether b is a payment card number: 13 to 19 digits, single spaces or dashes between them allowed,
// of an issuer's range, with a right check digit (Luhn) and not one digit repeated.
func IsCard(b []byte) bool {
	var d [19]byte
	n := 0
	for i, c := range b {
		switch {
		case c >= '0' && c <= '9':
			if n == len(d) {
				return false
			}
			d[n] = c - '0'
			n++
		case c != ' ' && c != '-', i == 0, i == len(b)-1, classes[b[i-1]] != digit:
			return false
		}
	}
	return n >= 13 && issuer(d[:n]) && luhn(d[:n])
}

// issuer knows the ranges that are in use and their lengths (ISO/IEC 7812-1 issuer identification numbers).
func issuer(d []byte) bool {
	n := len(d)
	p2 := int(d[0])*10 + int(d[1])
	p4 := p2*100 + int(d[2])*10 + int(d[3])
	switch {
	case d[0] == 4: // Visa
		return n == 13 || n == 16 || n == 19
	case p2 >= 51 && p2 <= 55, p4 >= 2221 && p4 <= 2720: // Mastercard
		return n == 16
	case p2 == 34, p2 == 37: // American Express
		return n == 15
	case p2 == 36, p2 == 38, p2 == 39, p4 >= 3000 && p4 <= 3059: // Diners Club
		return n >= 14
	case p4 >= 3528 && p4 <= 3589: // JCB
		return n >= 16
	case p4 == 6011, p2 == 64, p2 == 65, p2 == 62: // Discover, UnionPay
		return n >= 16
	case p2 == 50, p2 >= 56 && p2 <= 58, p2 == 63, p2 == 67: // Maestro
		return n == 16 || n == 19
	}
	return false
}

func luhn(d []byte) bool {
	sum, same := 0, true
	for i, c := range d {
		same = same && c == d[0]
		v := int(c)
		if (len(d)-i)%2 == 0 {
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return sum%10 == 0 && !same
}

// holdsCard reports whether some run of digits inside b is a card number; strict asks that no letter touches it, as
// letters do in hex and base64.
func holdsCard(b []byte, strict bool) bool {
	for i := 0; i < len(b); {
		if classes[b[i]] != digit {
			i++
			continue
		}
		j := i + 1
		for j < len(b) && (classes[b[j]] == digit || (b[j] == '-' || b[j] == ' ') && j+1 < len(b) && classes[b[j+1]] == digit) {
			j++
		}
		touched := i > 0 && classes[b[i-1]] <= upper || j < len(b) && classes[b[j]] <= upper
		if j-i >= 13 && (!strict || !touched) && IsCard(b[i:j]) {
			return true
		}
		i = j
	}
	return false
}

// IsIBAN reports whether b is an international bank account number: country, two check digits, 11 to 30 more, mod 97
// is 1 (ISO 13616). Spaces in groups of four are allowed.
func IsIBAN(b []byte) bool {
	var d [34]byte
	n := 0
	for _, c := range b {
		if c == ' ' && n > 0 {
			continue
		}
		if cl := classes[c]; n == len(d) || cl != digit && cl != upper {
			return false
		}
		d[n] = c
		n++
	}
	if n < 15 || classes[d[0]] != upper || classes[d[1]] != upper || classes[d[2]] != digit || classes[d[3]] != digit {
		return false
	}
	mod := 0
	for i := range n {
		c := d[(i+4)%n]
		if classes[c] == digit {
			mod = (mod*10 + int(c-'0')) % 97
		} else {
			mod = (mod*100 + int(c-'A') + 10) % 97
		}
	}
	return mod == 1
}
