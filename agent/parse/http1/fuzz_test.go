package http1

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/agent/parse/parsetest"
)

func FuzzParser(f *testing.F) {
	files, err := filepath.Glob("testdata/*.talk")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds")
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		talk, err := parsetest.Read(string(text))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(parsetest.Encode(talk))
	}
	l := small()
	// Each open call holds a head and a body on both sides; each side holds a head being read.
	bound := (l.Open+2)*2*(l.Head+l.Body) + 2*(l.Head+maxLine)
	f.Fuzz(func(t *testing.T, b []byte) {
		begun := time.Now()
		if err := parsetest.Torture(parsetest.Script(b), maker, bound); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begun); d > 5*time.Second {
			t.Fatalf("%d bytes took %v", len(b), d)
		}
	})
}

// An endless head, trailer or chunk line must cost no more than its limit.
func TestEndlessPartsAreBounded(t *testing.T) {
	for name, begin := range map[string]string{
		"head":       "GET / HTTP/1.1\r\nA: ",
		"target":     "GET /",
		"chunk line": "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"trailer":    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: ",
	} {
		p := New(small(), false, func(*parse.Exchange) { t.Errorf("%s: emitted", name) })
		_ = p.Feed(parse.Requests, []byte(begin), 0)
		most := 0
		for range 1000 {
			if p.Feed(parse.Requests, []byte("0123456789abcdef0123456789abcdef"), 0) != nil {
				break
			}
			most = max(most, p.Buffered())
		}
		if most > small().Head+maxLine+64 {
			t.Errorf("%s: held %d bytes", name, most)
		}
		if p.Counts().Malformed == 0 {
			t.Errorf("%s: not counted as malformed", name)
		}
	}
}

func TestTooManyOpenRequestsAreLostNotGuessed(t *testing.T) {
	n := 0
	p := New(small(), false, func(*parse.Exchange) { n++ })
	for range 100 {
		if err := p.Feed(parse.Requests, []byte("GET / HTTP/1.1\r\n\r\n"), 0); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		if err := p.Feed(parse.Responses, []byte("HTTP/1.1 204 No Content\r\n\r\n"), 0); err != nil {
			t.Fatal(err)
		}
	}
	p.Close(0)
	if c := p.Counts(); n != 0 || c.Lost != 100 || c.Unanswered != 0 {
		t.Errorf("%d emitted, %+v", n, c)
	}
}
