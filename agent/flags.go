package main

import (
	"flag"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A setting that is not understood is told in one line: the flag (variable, key), the value, what is allowed, an example. The
// kinds of values below say the last two.

// quantity is a number of bytes: 65536, 64KiB, 16MiB.
type quantity[N int | int64] struct {
	to       *N
	min, max int64
	power    bool // of two
}

func (q quantity[N]) String() string {
	if q.to == nil {
		return "" // package flag asks a zero value
	}
	return bytesText(int64(*q.to))
}

func bytesText(n int64) string {
	for _, u := range byteUnits() {
		if n > 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

type byteUnit struct {
	name  string
	bytes int64
}

func byteUnits() []byteUnit { return []byteUnit{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} }

func (q quantity[N]) Set(s string) error {
	digits, unit := s, int64(1)
	for _, u := range byteUnits() {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			digits, unit = rest, u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > math.MaxInt64/unit || n < 0 || n*unit < q.min || n*unit > q.max || q.power && (n*unit)&(n*unit-1) != 0 {
		return fmt.Errorf("want %s", q.allowed())
	}
	*q.to = N(n * unit)
	return nil
}

func (q quantity[N]) allowed() string {
	kind, least, example := "bytes", bytesText(q.min), "4MiB"
	if q.power {
		kind, example = "a power of two", "16MiB"
	}
	if q.min == 0 {
		least = "0 (no limit)"
	}
	return fmt.Sprintf("%s from %s to %s, such as %s or %d", kind, least, bytesText(q.max), example, 4<<20)
}

// maxCores is more than any host has.
const maxCores = 1 << 16

// cores are processors: 0.5, or 50% (of one).
type cores struct{ to *float64 }

func (c cores) String() string {
	if c.to == nil {
		return ""
	}
	return strconv.FormatFloat(*c.to, 'g', -1, 64)
}

func (c cores) Set(s string) error {
	digits, percent := strings.CutSuffix(s, "%")
	n, err := strconv.ParseFloat(digits, 64)
	if percent {
		n /= 100
	}
	if err != nil || !(n >= 0 && n <= maxCores) { // NaN too
		return fmt.Errorf("want cores from 0 (no limit) to %d, such as 0.5 or 50%% (of one)", maxCores)
	}
	*c.to = n
	return nil
}

// choice is one of some words.
type choice struct {
	to   *string
	of   []string
	none bool // may be chosen, too
}

func (c choice) String() string {
	if c.to == nil {
		return ""
	}
	return *c.to
}

func (c choice) Set(s string) error {
	if !slices.Contains(c.of, s) && !(s == "" && c.none) {
		return fmt.Errorf("want %s", orList(c.of))
	}
	*c.to = s
	return nil
}

// orList says "a, b or c".
func orList(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// flagError says what package flag says as the rest of the program does: the flag as people write it, then the value.
func flagError(f *flag.FlagSet, err error) error {
	const lists = " (spile-agent --help lists the flags)"
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		return fmt.Errorf("%s is no flag%s", dashed(name), lists)
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		if x := f.Lookup(name); x != nil {
			if allowed := x.Value.Set(""); allowed != nil {
				return fmt.Errorf("%s needs a value: %w", dashed(name), allowed)
			}
		}
		return fmt.Errorf("%s needs a value%s", dashed(name), lists)
	}
	for _, form := range []string{"invalid value ", "invalid boolean value "} {
		rest, ok := strings.CutPrefix(text, form)
		if !ok {
			continue
		}
		between := " for flag -"
		if form != "invalid value " {
			between = " for -"
		}
		if at := strings.LastIndex(rest, between); at >= 0 {
			name, why, _ := strings.Cut(rest[at+len(between):], ": ")
			if why == "parse error" {
				why = "want true or false"
			}
			return fmt.Errorf("%s %s: %s", dashed(name), plainValue(rest[:at]), why)
		}
	}
	return fmt.Errorf("%w%s", err, lists)
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// plainValue takes the quotes off a value that is one plain word.
func plainValue(quoted string) string {
	word, err := strconv.Unquote(quoted)
	if err != nil || word == "" || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return quoted
	}
	return word
}
