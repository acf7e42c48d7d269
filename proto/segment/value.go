package segment

// What follows is for values outside of URLs: parts of Lex, for who needs to know one thing only.

// HoldsEmail reports whether b holds an e-mail address.
func HoldsEmail(b []byte) bool { return holdsEmail(b) }

// HoldsCard reports whether b holds a payment card number that stands by itself.
func HoldsCard(b []byte) bool { return holdsCard(b, true) }

// IsPhone reports whether b is a telephone number in international form.
func IsPhone(b []byte) bool { return len(b) > 8 && b[0] == '+' && isPhone(b) }

// IsSSN reports whether b is a social security number of the United States, with dashes.
func IsSSN(b []byte) bool { return len(b) == 11 && isSSN(b) }
