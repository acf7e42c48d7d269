package cli

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	const x = "\ufffd"
	for in, want := range map[string]string{
		"/users/{id}":        "/users/{id}",
		"/café/日本":           "/café/日本",
		"":                   "",
		"a\x1b[31mred":       "a" + x + "[31mred",
		"a\r\nb\tc":          "a" + x + x + "b" + x + "c",
		"\x9b31m":            x + "31m", // one byte, invalid UTF-8
		"\u009b31m":          x + "31m", // the same as C1 control
		"a\x7fb":             "a" + x + "b",
		"\u202egpj.exe":      x + "gpj.exe",
		"a\u2066b\u2069":     "a" + x + "b" + x,
		"a\u200db":           "a" + x + "b",
		"a\u2028b\u00a0c":    "a" + x + "b" + x + "c",
		"\xff\xfe":           x + x,
		"\U000e0041tag":      x + "tag",
		"\x1b]8;;http://x\a": x + "]8;;http://x" + x,
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"a", "\x1b[2J", "\u202e", "\xc3\x28", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Clean(s)
		if !utf8.ValidString(got) || Clean(got) != got {
			t.Errorf("Clean(%q) = %q", s, got)
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return r != utf8.RuneError && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) }); i >= 0 {
			t.Errorf("Clean(%q) = %q leaves %q", s, got, got[i:])
		}
	})
}
