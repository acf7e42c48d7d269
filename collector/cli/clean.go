package cli

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean makes s safe for a terminal: control characters, line and direction changes, invisible characters and invalid
// UTF-8 become "\ufffd". What is printable stays as it is.
func Clean(s string) string {
	if clean(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if printable(r) {
			return r
		}
		return utf8.RuneError
	}, s)
}

func clean(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// printable leaves out every category but letters, marks, numbers, punctuation, symbols and the plain space. Format
// characters (bidirectional overrides, zero width joiners) are among those left out.
func printable(r rune) bool {
	return r != utf8.RuneError && unicode.IsPrint(r)
}
