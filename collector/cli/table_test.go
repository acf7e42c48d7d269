package cli

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

func columns() []column {
	return []column{{head: "NAME", max: 8}, {head: "N", right: true}, {head: "WHAT"}}
}

func TestTableAligns(t *testing.T) {
	var out bytes.Buffer
	tab := newTable(World{Stdout: &out}, false, columns()...)
	for _, row := range [][]cell{{text("a"), text("1"), text("x")}, {text("longer than eight"), text("1000"), text("y\x1b[1m")}, {text("é"), text("22"), text("")}} {
		if err := tab.Add(row...); err != nil {
			t.Fatal(err)
		}
	}
	if err := tab.Flush(); err != nil {
		t.Fatal(err)
	}
	// Nothing is cut where a program may read it, nothing of a value is a control character.
	want := "NAME                  N  WHAT\n" +
		"a                     1  x\n" +
		"longer than eight  1000  y\ufffd[1m\n" +
		"é                    22  \n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestTableOnATerminal(t *testing.T) {
	var out bytes.Buffer
	w := World{Stdout: &out, Terminal: true, Width: 20, Env: []string{"TERM=xterm"}}
	tab := newTable(w, true, columns()...)
	for _, name := range []string{"ab", "longer than eight"} {
		if err := tab.Add(cell{name, red}, text("7"), text("a long text that does not fit")); err != nil {
			t.Fatal(err)
		}
	}
	for l := range strings.Lines(out.String()) {
		plain := strings.NewReplacer(string(red), "", string(faint), "", reset, "", "\n", "").Replace(l)
		if n := utf8.RuneCountInString(plain); n > 20 {
			t.Errorf("%d columns: %q", n, plain)
		}
	}
	if !strings.Contains(out.String(), string(red)+"longer …"+reset) {
		t.Errorf("colour and cut: %q", out.String())
	}
	for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
		w.Env = []string{env}
		if w.colour() {
			t.Errorf("%s: colours", env)
		}
	}
}

// faulty fails once it has taken some bytes.
type faulty struct{ left int }

func (f *faulty) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, syscall.EPIPE
	}
	return len(p), nil
}

func TestTableTellsThatItCannotBeWritten(t *testing.T) {
	tab := newTable(World{Stdout: &faulty{left: 40}}, true, columns()...)
	var err error
	for range 10 {
		if err = tab.Add(text("a"), text("1"), text("x")); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.EPIPE) {
		t.Errorf("error %v", err)
	}
}

func TestWords(t *testing.T) {
	for got, want := range map[string]string{
		size(0): "0B", size(999): "999B", size(1000): "1.0kB", size(15_360): "15kB", size(999_949): "1.0MB", size(1 << 40): "1.1TB",
		took(246 * time.Microsecond): "246µs", took(2100 * time.Microsecond): "2.1ms", took(42 * time.Millisecond): "42ms", took(1500 * time.Millisecond): "1.5s",
		short(59 * time.Second): "59s", short(90 * time.Minute): "1h", short(72 * time.Hour): "3d",
		plural(1, "call"): "1 call", plural(2, "duplicate batch"): "2 duplicate batches", plural(0, "category"): "0 categories",
		tally(map[string]uint64{"404": 2, "200": 118, "301": 2}): "200×118 301×2 404×2",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestMoments(t *testing.T) {
	now := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Time{"5m": now.Add(-5 * time.Minute), "0s": now, "2026-11-21T09:00:00+01:00": now.Add(-2 * time.Hour)} {
		if got, err := moment("--since", in, now); err != nil || !got.AsTime().Equal(want) {
			t.Errorf("%s: %v %v, want %v", in, got.AsTime(), err, want)
		}
	}
	for _, in := range []string{"-5m", "yesterday", "5", "2026-11-21"} {
		if got, err := moment("--since", in, now); err == nil {
			t.Errorf("%s: %v", in, got)
		}
	}
	for in, want := range map[string]uint32{"": 0, "404": 404, "4xx": 4, "5XX": 5, "2": 2} {
		if got, err := statusFilter(in); err != nil || got != want {
			t.Errorf("status %s: %d %v", in, got, err)
		}
	}
	for _, in := range []string{"20", "404xx", "x", "0", "-1", "1000", "6", "9xx"} {
		if got, err := statusFilter(in); err == nil {
			t.Errorf("status %s: %d", in, got)
		}
	}
}
