package http2

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/agent/parse/parsetest"
)

// chatter is a random connection: many streams at once, shared header tables, bodies in pieces.
func chatter(t *testing.T, rng *rand.Rand, requests int) []parsetest.Event {
	d := newDialog(t)
	d.hello()
	var open []uint32
	next := uint32(1)
	path := func(id uint32) string { return fmt.Sprintf("/%d/%d", id%7, id) }
	answer := func() {
		i := rng.IntN(len(open))
		id := open[i]
		open = append(open[:i], open[i+1:]...)
		d.server(func(e *end) {
			e.headers(id, false, ":status="+[]string{"200", "201", "404"}[id%3], "x-of="+path(id), "server=s", fmt.Sprintf("x-n=%d", id%5))
			if rng.IntN(2) == 0 {
				e.data(id, false, strings.Repeat("b", rng.IntN(300)))
			}
			e.data(id, true, "end")
		})
	}
	for n := 0; n < requests || len(open) > 0; {
		if n < requests && (len(open) == 0 || len(open) < 6 && rng.IntN(2) == 0) {
			id := next
			d.client(func(e *end) {
				if rng.IntN(3) == 0 {
					e.post(id, path(id), "x-a=1", fmt.Sprintf("x-b=%d", id%4))
					e.data(id, true, "some body")
				} else {
					e.get(id, path(id), "x-a=1", fmt.Sprintf("x-c=%d", id%3))
				}
			})
			open = append(open, id)
			next += 2
			n++
			continue
		}
		answer()
	}
	return d.talk
}

func TestLossesAreCountedByStreamIDs(t *testing.T) {
	emitted, lost := 0, uint64(0)
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 2))
		talk := chatter(t, rng, 30)
		rate := []float64{0, 0.02, 0.1, 0.4}[seed%4]
		last := len(talk) - 1
		rest := parsetest.Lose(talk, func(i int) bool { return i != last && rng.Float64() < rate },
			func(parsetest.Event) uint32 { return 0 })
		seen, err := parsetest.Play(rest, maker)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range seen.Exchanges {
			if want := fmt.Sprintf("/%d/%d", x.Ordinal%7, x.Ordinal); x.Request.Target != want {
				t.Fatalf("seed %d: stream %d has path %s", seed, x.Ordinal, x.Request.Target)
			}
			for _, f := range x.Response.Header {
				if f.Name == "x-of" && f.Value != x.Request.Target {
					t.Fatalf("seed %d: %s was given the response to %s", seed, x.Request.Target, f.Value)
				}
			}
			if want := []int{200, 201, 404}[x.Ordinal%3]; x.Response.Status != want {
				t.Fatalf("seed %d: stream %d has status %d", seed, x.Ordinal, x.Response.Status)
			}
		}
		if known := idsIn(rest); seen.Requests() != known {
			t.Fatalf("seed %d: %d of %d requests accounted for: %+v", seed, seen.Requests(), known, seen.Counts)
		}
		if rate == 0 && (len(seen.Exchanges) != 30 || seen.Counts.Lost > 0) {
			t.Fatalf("seed %d: %+v", seed, seen.Counts)
		}
		emitted, lost = emitted+len(seen.Exchanges), lost+seen.Counts.Lost
	}
	if emitted == 0 || lost == 0 {
		t.Error("the test shows nothing")
	}
	t.Logf("%d calls, %d lost", emitted, lost)
}

func TestBoundsHoldForHeaderBombs(t *testing.T) {
	// One large entry, then thousands of one-byte references to it (CVE-2016-6581).
	d := newDialog(t)
	d.hello()
	d.client(func(e *end) {
		block := e.fields(":method=GET", ":scheme=http", ":path=/", ":authority=a", "x-bomb="+strings.Repeat("b", 3000))
		for range 3000 {
			block = append(block, 0x80|62)
		}
		_ = e.frames.WriteRawFrame(frameHeaders, flagEndHeaders|flagEndStream, 1, block[:4000])
	})
	most, n := 0, 0
	p := New(parse.Limits{Head: 8192, Body: 256, Open: 8, Names: 32}, false, func(x *parse.Exchange) {
		n++
		if x.Request.UnknownHeaders == 0 {
			t.Error("dropped fields are not counted")
		}
	})
	d.server(func(e *end) { e.headers(1, true, ":status=431") })
	for _, e := range d.talk {
		if err := p.Feed(e.Side, e.Data, e.At); err != nil {
			t.Fatal(err)
		}
		most = max(most, p.Buffered())
	}
	if n != 1 || most > 32<<10 {
		t.Errorf("%d exchanges, held %d bytes", n, most)
	}
}

func TestEndlessContinuationIsBounded(t *testing.T) {
	// CONTINUATION flood (CVE-2024-24549 and its kin).
	d := newDialog(t)
	d.hello()
	d.client(func(e *end) { _ = e.frames.WriteRawFrame(frameHeaders, 0, 1, e.fields(":method=GET")) })
	for range 2000 {
		d.client(func(e *end) { _ = e.frames.WriteRawFrame(frameContinuation, 0, 1, make([]byte, 100)) })
	}
	p := New(small(), false, func(*parse.Exchange) { t.Error("emitted") })
	most := 0
	for _, e := range d.talk {
		if p.Feed(e.Side, e.Data, e.At) != nil {
			break
		}
		most = max(most, p.Buffered())
	}
	if most > 3*small().Head {
		t.Errorf("held %d bytes", most)
	}
	if p.Counts().Malformed == 0 {
		t.Error("not counted")
	}
}
