package http2

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/agent/parse/parsetest"
)

var update = flag.Bool("update", false, "write testdata/*.want")

func small() parse.Limits { return parse.Limits{Head: 4096, Body: 256, Open: 8, Names: 32} }

func maker(late bool, emit func(*parse.Exchange)) parse.Parser { return New(small(), late, emit) }

func TestTalks(t *testing.T) {
	all := talks()
	if len(all) < 15 {
		t.Fatalf("%d talks", len(all))
	}
	for name, script := range all {
		t.Run(name, func(t *testing.T) {
			d := newDialog(t)
			script(d)
			whole, err := parsetest.Play(d.talk, maker)
			if err != nil {
				t.Fatal(err)
			}
			file := "testdata/" + name + ".want"
			if *update {
				if err := os.WriteFile(file, []byte(whole.Lines()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got := whole.Lines(); got != string(want) {
				t.Fatalf("got\n%swant\n%s", got, want)
			}
			pieces(t, d.talk, whole)
			if !torn(d.talk) && whole.Counts.Malformed == 0 {
				losses(t, d.talk, whole)
			}
		})
	}
}

// torn: where bytes are missing, what follows depends on where buffers begin.
func torn(talk []parsetest.Event) bool {
	return slices.ContainsFunc(talk, func(e parsetest.Event) bool {
		return e.Kind == parsetest.Gap || e.Kind == parsetest.Late
	})
}

func pieces(t *testing.T, talk []parsetest.Event, whole parsetest.Seen) {
	check := func(talk []parsetest.Event) {
		t.Helper()
		got, err := parsetest.Play(talk, maker)
		if err != nil {
			t.Fatal(err)
		}
		if torn(talk) {
			for i := range got.Exchanges {
				x := got.Exchanges[i]
				if !slices.ContainsFunc(whole.Exchanges, func(w parsetest.Exchange) bool {
					return w.Ordinal == x.Ordinal && w.Request.Target == x.Request.Target && w.Response.Status == x.Response.Status
				}) {
					t.Fatalf("a pair that never was: %+v", x)
				}
			}
			return
		}
		if got.Lines() != whole.Lines() {
			t.Fatalf("got\n%swant\n%s", got.Lines(), whole.Lines())
		}
	}
	check(parsetest.Bytewise(talk))
	for i, e := range talk {
		for n := 1; n < len(e.Data); n += 1 + len(e.Data)/400 {
			check(parsetest.Split(talk, i, n))
		}
	}
}

// losses drops each buffer in turn. Nothing may be paired that was no pair, no value may change, and every request
// whose id can be known from what is left must be accounted for.
func losses(t *testing.T, talk []parsetest.Event, whole parsetest.Seen) {
	for i, e := range talk {
		if e.Kind != parsetest.Data {
			continue
		}
		rest := parsetest.Lose(talk, func(n int) bool { return n == i }, func(parsetest.Event) uint32 { return 0 })
		got, err := parsetest.Play(rest, maker)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range got.Exchanges {
			if !slices.ContainsFunc(whole.Exchanges, func(w parsetest.Exchange) bool { return sameOrLess(w, x) }) {
				t.Errorf("without buffer %d: %+v is in none of\n%s", i, x, whole.Lines())
			}
		}
		if known := idsIn(rest); got.Requests() != known {
			t.Errorf("without buffer %d: %d of %d requests accounted for:\n%s\n%s", i, got.Requests(), known, got.Lines(), hex.Dump(e.Data))
		}
	}
}

// sameOrLess: x is w, perhaps with fields that could not be resolved or a body that is marked.
func sameOrLess(w, x parsetest.Exchange) bool {
	for _, m := range [][2]parsetest.Message{{w.Request, x.Request}, {w.Response, x.Response}} {
		if m[0].Method != m[1].Method || m[0].Target != m[1].Target || m[0].Status != m[1].Status {
			return false
		}
		for _, f := range m[1].Header {
			if !slices.Contains(m[0].Header, f) {
				return false
			}
		}
		if len(m[0].Header) > len(m[1].Header)+m[1].Unknown {
			return false
		}
		if m[0].Body != m[1].Body && !m[1].Truncated && !x.Gap {
			return false
		}
	}
	return w.Ordinal == x.Ordinal
}

// idsIn counts the requests whose ids show in the frames that are left. Buffers begin with frames here.
func idsIn(talk []parsetest.Event) uint64 {
	highest := int64(-1)
	for _, e := range talk {
		b := bytes.TrimPrefix(e.Data, []byte(preface))
		for len(b) >= headBytes {
			f := readHead(b)
			if f.id%2 == 1 && f.kind < 16 && f.kind != framePriority {
				highest = max(highest, int64(f.id))
			}
			b = b[min(len(b), headBytes+f.length):]
		}
	}
	return uint64(highest+1) / 2
}

func TestStreamsThatNeverEndAreSettled(t *testing.T) {
	d := newDialog(t)
	d.hello()
	d.client(func(e *end) { e.get(1, "/") })
	d.server(func(e *end) { e.headers(1, false, ":status=200") })
	d.server(func(e *end) { e.data(1, true, "the end is lost") })
	d.lose()
	d.at += stale
	d.client(func(e *end) { e.get(3, "/") })
	d.at += stale
	d.server(func(e *end) { e.ok(3, "") })
	n := 0
	p := New(small(), false, func(*parse.Exchange) { n++ })
	for _, e := range d.talk {
		if e.Kind == parsetest.Gap {
			p.Gap(e.Side, e.Bytes, e.Heads, e.At)
		} else if err := p.Feed(e.Side, e.Data, e.At); err != nil {
			t.Fatal(err)
		}
	}
	if n != 2 {
		t.Errorf("%d exchanges before the close, want both", n)
	}
	p.Close(time.Hour)
}
