package http2

import (
	"strings"

	"golang.org/x/net/http2"

	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/agent/parse/parsetest"
)

// talks are named after the edge that they prove. What the parser makes of each is in testdata/NAME.want.
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
		"reset-when-whole": func(d *dialog) {
			d.hello()
			d.client(func(e *end) { e.get(1, "/whole"); e.get(3, "/short") })
			d.server(func(e *end) {
				e.headers(1, false, ":status=200", "content-length=5")
				e.data(1, false, "whole")
				e.headers(3, false, ":status=200", "content-length=6")
				e.data(3, false, "short")
			})
			d.client(func(e *end) { e.reset(1); e.reset(3) })
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
