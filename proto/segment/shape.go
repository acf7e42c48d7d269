package segment

// template reports whether b has the shape of t: '0' stands for a digit, 'x' for a hex digit, all else for itself.
func template(b []byte, t string) bool {
	if len(b) < len(t) {
		return false
	}
	for i := range len(t) {
		switch t[i] {
		case '0':
			if classes[b[i]] != digit {
				return false
			}
		case 'x':
			if !isHex[b[i]] {
				return false
			}
		default:
			if b[i] != t[i] {
				return false
			}
		}
	}
	return true
}

func isUUID(b []byte) bool {
	return template(b, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
}

// isULID asks for the "01" that every ULID made between 2004 and 2039 begins with, so that keys in base32 do not pass.
func isULID(b []byte) bool {
	if b[0] != '0' || b[1] != '1' {
		return false
	}
	for _, c := range b {
		if cl := classes[c]; cl != digit && cl != upper || c == 'I' || c == 'L' || c == 'O' || c == 'U' {
			return false
		}
	}
	return true
}

// isObjectID asks for hex in one case whose first four bytes are a time between 2010 and 2035.
func isObjectID(b []byte, s *facts) bool {
	if s.hexRun != len(b) || s.upper > 0 {
		return false
	}
	year := unhex(b[0])<<4 | unhex(b[1])
	return year >= 0x4b && year <= 0x7a
}

func isSSN(b []byte) bool {
	return template(b, "000-00-0000") && string(b[:3]) != "000" && string(b[:3]) != "666" && b[0] != '9' && string(b[4:6]) != "00" && string(b[7:]) != "0000"
}

func isDate(b []byte) bool {
	if !template(b, "0000-00-00") || b[5] > '1' || b[8] > '3' || len(b) > 35 {
		return false
	}
	for _, c := range b[10:] {
		if classes[c] != digit && c != 'T' && c != 't' && c != 'Z' && c != 'z' && c != ':' && c != '.' && c != '+' && c != '-' && c != ' ' {
			return false
		}
	}
	return true
}

// isNumber takes digits and single dots, with a sign.
func isNumber(b []byte) bool {
	if b[0] == '-' || b[0] == '+' {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 19 || classes[b[0]] != digit || classes[b[len(b)-1]] != digit {
		return false
	}
	for i, c := range b {
		if classes[c] != digit && (c != '.' || b[i-1] == '.') {
			return false
		}
	}
	return true
}

func isIPv4(b []byte) bool {
	parts, value, digits := 1, 0, 0
	for _, c := range b {
		if c == '.' {
			parts++
			value, digits = 0, 0
			continue
		}
		if classes[c] != digit {
			return false
		}
		value = value*10 + int(c-'0')
		digits++
		if value > 255 || digits > 3 {
			return false
		}
	}
	return parts == 4
}

func isIPv6(b []byte) bool {
	if len(b) > 45 {
		return false
	}
	group, colons := 0, 0
	for _, c := range b {
		switch {
		case c == ':':
			colons++
			group = 0
		case isHex[c] && group < 4:
			group++
		default:
			return false
		}
	}
	return colons >= 2 && colons <= 7
}

// isVersion takes v1, v1.2, v2beta1, v1alpha.
func isVersion(b []byte) bool {
	i := 1
	for i < len(b) && (classes[b[i]] == digit || b[i] == '.' && b[i-1] != '.' && i > 1) {
		i++
	}
	if i == 1 || i > 12 {
		return false
	}
	for _, word := range [...]string{"alpha", "beta", "rc", "preview"} {
		if len(b)-i >= len(word) && string(b[i:i+len(word)]) == word {
			i += len(word)
			break
		}
	}
	end := i + 3
	for i < len(b) && i < end && classes[b[i]] == digit {
		i++
	}
	return i == len(b)
}

// isLocale takes a language of two letters and a country of two, as in de-DE.
func isLocale(b []byte) bool {
	return len(b) == 5 && classes[b[0]] == lower && classes[b[1]] == lower && (b[2] == '-' || b[2] == '_') && classes[b[3]] == upper && classes[b[4]] == upper
}

// holdsEmail reports whether some '@' in b stands between a mailbox and a domain.
func holdsEmail(b []byte) bool {
	for i := 1; i < len(b); i++ {
		if b[i] == '@' && emailAt(b, i) {
			return true
		}
	}
	return false
}

func emailAt(b []byte, at int) bool {
	if cl := classes[b[at-1]]; cl > dash && cl != high && b[at-1] != '+' {
		return false
	}
	dots, label, letters := 0, 0, 0
	for _, c := range b[at+1:] {
		switch cl := classes[c]; {
		case cl == dot && label > 0:
			dots++
			label, letters = 0, 0
		case cl == lower, cl == upper, cl == high:
			label++
			letters++
		case cl == digit, c == '-':
			label++
		default:
			return dots > 0 && letters >= 2
		}
	}
	return dots > 0 && (letters >= 2 || label == 0)
}

// isPhone takes an international number: '+', 8 to 15 digits, separators between.
func isPhone(b []byte) bool {
	digits := 0
	for _, c := range b[1:] {
		switch {
		case classes[c] == digit:
			digits++
		case c != ' ' && c != '-' && c != '.' && c != '(' && c != ')':
			return false
		}
	}
	return digits >= 8 && digits <= 15
}

// isPrefixed takes one word, '-' or '_', and a tail that ends the segment: 3 digits or more, or letters and digits mixed.
func isPrefixed(b []byte) bool {
	i := 0
	for i < len(b) && (classes[b[i]] == lower || classes[b[i]] == upper) {
		i++
	}
	if i == 0 || i > 8 || i == len(b) || classes[b[i]] != dash {
		return false
	}
	digits, letters, dashes := 0, 0, 0
	for _, c := range b[i+1:] {
		switch classes[c] {
		case digit:
			digits++
		case lower, upper:
			letters++
		case dash:
			dashes++
		default:
			return false
		}
	}
	if letters > 0 && dashes > 0 {
		return false
	}
	return digits >= 3 || digits >= 1 && letters >= 5 && digits+letters >= 8
}

// extensions are those that servers give to what they serve.
var extensions = [...]string{"aspx", "asp", "avif", "bin", "bmp", "css", "csv", "doc", "docx", "gif", "gz", "htm", "html", "ico", "ics", "jpeg",
	"jpg", "js", "json", "jsp", "map", "md", "mjs", "mp3", "mp4", "pdf", "php", "png", "proto", "rss", "svg", "tar", "tgz", "txt", "wasm", "webm",
	"webp", "woff", "woff2", "xls", "xlsx", "xml", "yaml", "yml", "zip"}

func isFile(b []byte) bool {
	for i := len(b) - 1; i > 0; i-- {
		if b[i] == '.' {
			return knownExtension(b[i+1:])
		}
	}
	return false
}

func knownExtension(b []byte) bool {
	for _, e := range extensions {
		if string(b) == e {
			return true
		}
	}
	return false
}

// SplitExt splits a File into the name and its extension with the dot; the name may be an identifier of its own.
func SplitExt(s string) (name, ext string) {
	for i := len(s) - 1; i > 0; i-- {
		if s[i] == '.' {
			if knownExtension([]byte(s[i+1:])) {
				return s[:i], s[i:]
			}
			break
		}
	}
	return s, ""
}
