package http1

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/agent/parse/parsetest"
)

var update = flag.Bool("update", false, "write testdata/*.want")

// small limits, so that talks can show what happens at them.
func small() parse.Limits { return parse.Limits{Head: 4096, Body: 256, Open: 8, Names: 16} }

func maker(late bool, emit func(*parse.Exchange)) parse.Parser { return New(small(), late, emit) }

// kernelHeads is how the kernel counts: a buffer that begins with a head is one.
func kernelHeads(e parsetest.Event) uint32 {
	if Sniff(e.Side, e.Data) == parse.Yes {
		return 1
	}
	return 0
}

func play(t *testing.T, talk []parsetest.Event) parsetest.Seen {
	t.Helper()
	seen, err := parsetest.Play(talk, maker)
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func TestTalks(t *testing.T) {
	files, err := filepath.Glob("testdata/*.talk")
	if err != nil || len(files) < 25 {
		t.Fatalf("%d talks, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".talk")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			talk, err := parsetest.Read(string(text))
			if err != nil {
				t.Fatal(err)
			}
			whole := play(t, talk)
			wantFile := strings.TrimSuffix(file, ".talk") + ".want"
			if *update {
				if err := os.WriteFile(wantFile, []byte(whole.Lines()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantFile)
			if err != nil {
				t.Fatal(err)
			}
			if got := whole.Lines(); got != string(want) {
				t.Fatalf("got\n%swant\n%s", got, want)
			}
			splits(t, name, talk, whole)
			losses(t, name, talk, whole)
		})
	}
}

// hasGap: where bytes are missing, what follows depends on where buffers begin.
func hasGap(talk []parsetest.Event) bool {
	for _, e := range talk {
		if e.Kind == parsetest.Gap || e.Kind == parsetest.Late {
			return true
		}
	}
	return false
}

func splits(t *testing.T, name string, talk []parsetest.Event, whole parsetest.Seen) {
	same := func(what string, got parsetest.Seen) {
		t.Helper()
		if hasGap(talk) || name == "expectation-failed" {
			got.Err, whole.Err = "", ""
			if got.Counts.Emitted > whole.Counts.Emitted {
				t.Fatalf("%s: more pairs than whole:\n%s", what, got.Lines())
			}
			return
		}
		if got.Lines() != whole.Lines() {
			t.Fatalf("%s:\n%swant\n%s", what, got.Lines(), whole.Lines())
		}
	}
	if whole.Counts.Malformed == 0 {
		same("byte by byte", play(t, parsetest.Bytewise(talk)))
	}
	for i, e := range talk {
		if e.Kind != parsetest.Data || whole.Counts.Malformed > 0 {
			continue
		}
		for n := 1; n < len(e.Data); n++ {
			same("split", play(t, parsetest.Split(talk, i, n)))
		}
	}
}

// losses drops each buffer in turn. Talks of which the kernel can't know every head are not held to exact sums.
func losses(t *testing.T, name string, talk []parsetest.Event, whole parsetest.Seen) {
	if hasGap(talk) || whole.Err != "" || whole.Counts.Malformed > 0 {
		return
	}
	for i, e := range talk {
		if e.Kind != parsetest.Data {
			continue
		}
		lossy := parsetest.Lose(talk, func(n int) bool { return n == i }, kernelHeads)
		got := play(t, lossy)
		err := parsetest.Agree(whole, got)
		if err != nil && name == "pipelined" && i == 0 && got.Counts.Emitted == 0 && got.Requests() == 1 {
			continue // three requests in one buffer look like one
		}
		if err != nil && name == "expectation-failed" && i == 1 && got.Counts.Emitted == 0 {
			continue // without the answer, the next request looks like the body
		}
		if err != nil && name == "answer-first" && i == 1 && got.Counts.Emitted == 0 && got.Requests() == 4 {
			continue // two answers without a question prove two requests, and one of them then shows itself
		}
		if err != nil {
			t.Errorf("without line %d (%q): %v\n%s", i, e.Data, err, got.Lines())
		}
	}
}
