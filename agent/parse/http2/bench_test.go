package http2

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/spile/spile/agent/parse"
)

// benchHead is a HEADERS frame of nine fields; all but the path are in a warm table.
func benchHead(e *end, id uint32) {
	e.get(id, "/api/v2/users/8812/orders?limit=20", "user-agent=curl/7.88.1", "accept=application/json",
		"authorization=Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "x-tenant=blue", "accept-encoding=gzip")
}

func BenchmarkExchange(b *testing.B) {
	p := New(parse.DefaultLimits(), false, func(*parse.Exchange) {})
	var request, response []byte
	d := newDialog(nil)
	d.hello()
	for range 2 {
		d.client(func(e *end) { benchHead(e, 1) })
		d.server(func(e *end) { e.ok(1, "{}", "content-type=application/json", "server=nginx") })
	}
	for _, e := range d.talk[:5] { // the second of each runs from a warm table
		if err := p.Feed(e.Side, e.Data, 0); err != nil {
			b.Fatal(err)
		}
	}
	request, response = d.talk[5].Data, d.talk[6].Data
	b.ReportAllocs()
	b.SetBytes(int64(len(request) + len(response)))
	id := uint32(1)
	for b.Loop() {
		id += 2
		setID(request, id)
		setID(response, id)
		if p.Feed(parse.Requests, request, 0) != nil || p.Feed(parse.Responses, response, 0) != nil {
			b.Fatal("refused")
		}
	}
	if p.Counts().Emitted != uint64(b.N)+1 {
		b.Fatalf("%+v", p.Counts())
	}
}

// setID renumbers every frame in b.
func setID(b []byte, id uint32) {
	for len(b) >= headBytes {
		f := readHead(b)
		b[5], b[6], b[7], b[8] = byte(id>>24), byte(id>>16), byte(id>>8), byte(id)
		b = b[headBytes+f.length:]
	}
}

// The same frames through x/net, without bodies or pairing, for the ratio.
func BenchmarkXNet(b *testing.B) {
	d := newDialog(nil)
	d.client(func(e *end) { benchHead(e, 1) })
	d.client(func(e *end) { benchHead(e, 1) })
	d.server(func(e *end) { e.ok(1, "{}", "content-type=application/json", "server=nginx") })
	d.server(func(e *end) { e.ok(1, "{}", "content-type=application/json", "server=nginx") })
	var in [2]bytes.Reader
	var framers [2]*http2.Framer
	for i := range framers {
		framers[i] = http2.NewFramer(nil, &in[i])
		framers[i].ReadMetaHeaders = hpack.NewDecoder(initialTable, nil)
		framers[i].SetReuseFrames()
	}
	read := func(side int, data []byte) {
		in[side].Reset(data)
		for in[side].Len() > 0 {
			if _, err := framers[side].ReadFrame(); err != nil {
				b.Fatal(err)
			}
		}
	}
	read(0, d.talk[0].Data)
	read(1, d.talk[2].Data)
	b.ReportAllocs()
	for b.Loop() {
		read(0, d.talk[1].Data)
		read(1, d.talk[3].Data)
	}
}
