package call

import (
	"encoding/json"
	"testing"
)

var jsonSeeds = []string{`{}`, `[]`, `""`, `0`, `-0.5e+3`, `01`, `1.`, `-`, `1e`, `tru`, `nul`, `true`, `{"a":1}`, `{"a":1,}`, `{"a" :[1,2,{"b":null}]}`, `[1,]`, `[,1]`,
	`{"a"}`, `{"a":}`, `{1:2}`, `"\u00e9\ud83d\ude00\n"`, `"\x"`, `"\u12"`, "\"\x01\"", `[[[[]]]]`, `{"a":{"b":{"c":[{"d":"e"}]}}}`, ` 1 `, `1 2`, `{"a":1}}`, `]`, "\xff", `"` + "\xff" + `"`, `[1 2]`, `{"a":"b" "c":1}`}

// scanAll runs the scanner to its end and checks what it hands out on the way.
func scanAll(t *testing.T, data []byte) token {
	var s scanner
	s.reset(data)
	depth := 0
	for range len(data) + 2 {
		tok, raw := s.next()
		switch tok {
		case tokEnd, tokTruncated, tokInvalid:
			return tok
		case tokObject, tokArray:
			depth++
		case tokObjectEnd, tokArrayEnd:
			depth--
		case tokString, tokKey:
			var want string
			if err := json.Unmarshal(append(append([]byte{'"'}, raw...), '"'), &want); err != nil {
				t.Fatalf("%q: string %q is none: %v", data, raw, err)
			}
			if got := unescape(nil, raw, 1<<20); string([]rune(string(got))) != want {
				t.Fatalf("%q: unescape(%q) = %q, want %q", data, raw, got, want)
			}
		}
		if depth != len(s.stack) || depth < 0 {
			t.Fatalf("%q: %d containers open, stack has %d", data, depth, len(s.stack))
		}
	}
	t.Fatalf("%q: more tokens than bytes", data)
	return tokInvalid
}

// The scanner and encoding/json agree on what is valid, and every begin of a valid text is valid or truncated.
func agree(t *testing.T, data []byte) {
	got := scanAll(t, data)
	if valid := json.Valid(data); valid != (got == tokEnd) {
		t.Fatalf("%q: scanner says %d, encoding/json %v", data, got, valid)
	}
	if got != tokEnd || len(data) > 512 {
		return
	}
	for n := range data {
		if g := scanAll(t, data[:n]); g == tokInvalid {
			t.Fatalf("%q is a begin of valid JSON and called invalid", data[:n])
		}
	}
}

func TestScanner(t *testing.T) {
	for _, s := range jsonSeeds {
		agree(t, []byte(s))
	}
}

func FuzzScanner(f *testing.F) {
	for _, s := range jsonSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) { agree(t, data) })
}

func FuzzUnescape(f *testing.F) {
	for _, s := range []string{`\ud83d\ude00`, `\ud83d`, `\ud83dx`, `\ud83d\u0041`, `\\`, `\"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var want string
		if json.Unmarshal([]byte(`"`+s+`"`), &want) != nil {
			return
		}
		if got := unescape(nil, []byte(s), 1<<20); string([]rune(string(got))) != want {
			t.Errorf("unescape(%q) = %q, want %q", s, got, want)
		}
	})
}
