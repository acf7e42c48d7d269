package http2

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/agent/parse/parsetest"
)

var update = flag.Bool("update", false, "write testdata/*.want")

func small() parse.Limits { return parse.Limits{Head: 4096, Body: 256, Open: 8, Names: 32} }

func maker(late bool, emit func(*parse.Exchange)) parse.Parser { return New(small(), late, emit) }

func talks() map[string]func(d *dialog) {
	return map[string]func(d *dialog){
		"plain": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.get(1, "/users/1?a=b", "accept=*/*") })
			d.server(func(e *end) { e.ok(1, "hello", "content-type=text/plain") })
			d.client(func(e *end) { e.get(3, "/users/2", "accept=*/*") })
			d.server(func(e *end) { e.headers(3, true, ":status=404", "content-type=text/plain") })
		},
		"interleaved": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.get(1, "/1"); e.post(3, "/3"); e.get(5, "/5") })
			d.client(func(e *end) { e.data(3, false, "one ") })
			d.server(func(e *end) {
				e.headers(5, false, ":status=200")
				e.headers(1, false, ":status=200")
				e.data(5, false, "a")
			})
			d.client(func(e *end) { e.data(3, true, "two") })
			d.server(func(e *end) { e.data(1, true, "x"); e.ok(3, "y"); e.data(5, true, "b") })
		},
		"continuation": func(d *dialog) {
			d.hello()
			d.client(func(e *end) {
				b := e.fields(":method=GET", ":scheme=http", ":authority=a", ":path=/long", "x-a=1", "x-b=2", "x-c=3")
				_ = e.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:5], EndStream: true})
				_ = e.frames.WriteContinuation(1, false, b[5:9])
				_ = e.frames.WriteContinuation(1, true, b[9:])
			})
			d.server(func(e *end) { e.ok(1, "") })
		},
		"padded-priority": func(d *dialog) {
			d.hello()
			d.client(func(e *end) {
				_ = e.frames.WriteHeaders(http2.HeadersFrameParam{
					StreamID: 1, BlockFragment: e.fields(":method=POST", ":scheme=http", ":authority=a", ":path=/p"),
					EndHeaders: true, PadLength: 7, Priority: http2.PriorityParam{StreamDep: 0, Weight: 9, Exclusive: true},
				})
				_ = e.frames.WritePriority(1, http2.PriorityParam{Weight: 3})
				_ = e.frames.WriteDataPadded(1, false, []byte("body"), make([]byte, 9))
				_ = e.frames.WriteDataPadded(1, true, nil, make([]byte, 3))
			})
			d.server(func(e *end) { e.ok(1, "ok") })
		},
		"trailers": func(d *dialog) {
			d.hello()
			d.client(func(e *end) {
				e.post(1, "/pkg.Service/Method", "content-type=application/grpc", "te=trailers")
				e.data(1, true, "\x00\x00\x00\x00\x01x")
			})
			d.server(func(e *end) {
				e.headers(1, false, ":status=200", "content-type=application/grpc")
				e.data(1, false, "\x00\x00\x00\x00\x01y")
				e.headers(1, true, "grpc-status=0", "grpc-message=")
			})
		},
		"trailers-only": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.post(1, "/pkg.Service/None", "content-type=application/grpc"); e.data(1, true, "") })
			d.server(func(e *end) { e.headers(1, true, ":status=200", "content-type=application/grpc", "grpc-status=12") })
		},
		"reset": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.get(1, "/unanswered"); e.get(3, "/half"); e.get(5, "/whole") })
			d.client(func(e *end) { e.reset(1) })
			d.server(func(e *end) {
				e.headers(3, false, ":status=200")
				e.data(3, false, "par")
				e.reset(3)
				e.ok(5, "whole")
			})
		},
		"early-response": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.post(1, "/upload"); e.data(1, false, "much") })
			d.server(func(e *end) { e.headers(1, true, ":status=413"); _ = e.frames.WriteRSTStream(1, http2.ErrCodeNo) })
		},
		"interim": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.post(1, "/up", "expect=100-continue") })
			d.server(func(e *end) { e.headers(1, false, ":status=100"); e.headers(1, false, ":status=103", "link=x") })
			d.client(func(e *end) { e.data(1, true, "data") })
			d.server(func(e *end) { e.ok(1, "done") })
		},
		"goaway": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.get(1, "/1"); e.get(3, "/3") })
			d.server(func(e *end) { e.ok(1, "1"); _ = e.frames.WriteGoAway(1, http2.ErrCodeNo, []byte("bye")) })
			d.mark(parsetest.Close)
		},
		"table-size": func(d *dialog) {
			d.client(func(e *end) { e.out.WriteString(preface); e.settings() })
			d.server(func(e *end) {
				e.settings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 8192})
				e.ack()
			})
			d.client(func(e *end) {
				e.ack()
				e.enc.SetMaxDynamicTableSizeLimit(8192)
				e.enc.SetMaxDynamicTableSize(8192)
				for i := range uint32(5) {
					e.get(1+2*i, "/"+strings.Repeat("p", int(i)*3), "x-long="+strings.Repeat("v", 1500+int(i)))
				}
				e.enc.SetMaxDynamicTableSize(0)
				e.get(11, "/no-table", "x-long="+strings.Repeat("v", 1500))
			})
			d.server(func(e *end) {
				for i := range uint32(6) {
					e.ok(1+2*i, "")
				}
			})
		},
		"push": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.get(1, "/") })
			d.server(func(e *end) {
				_ = e.frames.WritePushPromise(http2.PushPromiseParam{
					StreamID: 1, PromiseID: 2, EndHeaders: true, PadLength: 3,
					BlockFragment: e.fields(":method=GET", ":scheme=https", ":authority=a.example", ":path=/style.css", "x-shared=1"),
				})
				e.ok(2, "css", "x-shared=1")
				e.ok(1, "html", "x-shared=1")
			})
		},
		"control-frames": func(d *dialog) {
			d.hello()
			d.client(func(e *end) {
				_ = e.frames.WritePing(false, [8]byte{1})
				_ = e.frames.WriteWindowUpdate(0, 99)
				_ = e.frames.WriteRawFrame(0x77, 0x55, 9, []byte("unknown kinds are ignored"))
				e.get(1, "/")
				_ = e.frames.WriteWindowUpdate(1, 5)
			})
			d.server(func(e *end) { _ = e.frames.WritePing(true, [8]byte{1}); e.ok(1, "") })
		},
		"large-body": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.get(1, "/big") })
			d.server(func(e *end) { e.ok(1, strings.Repeat("b", 300)) })
		},
		"connect": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.headers(1, false, ":method=CONNECT", ":authority=db:5432") })
			d.server(func(e *end) { e.headers(1, false, ":status=200"); e.data(1, false, "bytes") })
			d.client(func(e *end) { e.data(1, true, "more") })
			d.server(func(e *end) { e.data(1, true, "") })
		},
		"unanswered": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.get(1, "/1"); e.get(3, "/3") })
			d.server(func(e *end) { e.headers(3, false, ":status=200"); e.data(3, false, "cut") })
		},
		"host-header": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.headers(1, true, ":method=GET", ":scheme=http", ":path=/h", "host=by-host") })
			d.server(func(e *end) { e.ok(1, "") })
		},
		"answer-first": func(d *dialog) {
			d.hello()
			d.server(func(e *end) { e.ok(1, "one") })
			d.client(func(e *end) { e.get(1, "/1"); e.post(3, "/3") })
			d.server(func(e *end) { e.headers(5, true, ":status=204") })
			d.client(func(e *end) { e.get(5, "/5"); e.data(3, true, "x") })
			d.server(func(e *end) { e.ok(3, "3") })
		},
		"no-path": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.headers(1, true, ":method=GET", ":scheme=http", ":authority=a"); e.get(3, "/3") })
			d.server(func(e *end) { e.ok(1, ""); e.ok(3, "") })
		},
		"late": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.get(1, "/shop", "x-key=k") })
			d.server(func(e *end) { e.ok(1, "1", "server=s") })
			// Joined here: what was inserted before is unknown, what comes after is not.
			d.talk = nil
			d.mark(parsetest.Late)
			d.client(func(e *end) { e.get(3, "/shop", "x-key=k") })
			d.server(func(e *end) { e.ok(3, "3", "server=s") })
			d.client(func(e *end) { e.get(5, "/", "x-key=k", "x-new=n") })
			d.server(func(e *end) { e.ok(5, "5", "server=s", "x-served=1") })
			d.client(func(e *end) { e.get(7, "/", "x-new=n") })
			d.server(func(e *end) { e.ok(7, "7", "x-served=1") })
		},
		"gap-in-data": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.get(1, "/1") })
			d.server(func(e *end) { e.ok(1, strings.Repeat("x", 100)) })
			last := &d.talk[len(d.talk)-1]
			tail := *last
			last.Data, tail.Data = last.Data[:len(last.Data)-60], last.Data[len(last.Data)-20:]
			d.talk = append(d.talk, parsetest.Event{Kind: parsetest.Gap, Side: parse.Responses, Bytes: 40, At: d.at}, tail)
			d.client(func(e *end) { e.get(3, "/3", "x-n=1") })
			d.server(func(e *end) { e.ok(3, "3") })
		},
		"gap-of-requests": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.get(1, "/") })
			d.server(func(e *end) { e.ok(1, "1") })
			d.client(func(e *end) { e.get(3, "/"); e.get(5, "/") })
			d.lose()
			d.server(func(e *end) { e.ok(3, "3"); e.ok(5, "5") })
			d.client(func(e *end) { e.get(7, "/") })
			d.server(func(e *end) { e.ok(7, "7") })
		},
		"gap-at-the-end": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.get(1, "/") })
			d.server(func(e *end) { e.ok(1, "1") })
			d.client(func(e *end) { e.get(3, "/") })
			d.lose()
			d.server(func(e *end) { e.ok(3, "3") })
		},
		"not-http2": func(d *dialog) {
			d.client(func(e *end) { e.out.WriteString("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n") })
		},
		"bad-compression": func(d *dialog) {
			d.hello()
			d.client(func(e *end) {
				_ = e.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0x80}, EndHeaders: true, EndStream: true})
				e.get(3, "/after")
			})
			d.server(func(e *end) { e.headers(1, true, ":status=400"); e.ok(3, "3") })
		},
	}
}

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
