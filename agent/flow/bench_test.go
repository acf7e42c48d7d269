package flow

import (
	"testing"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/parse"
)

// One keep-alive exchange from two chunks, as the agent's hot path runs it.
func BenchmarkExchange(b *testing.B) {
	n := 0
	f := New(Config{Emit: func(*Stream, *parse.Exchange) { n++ }})
	request := []byte("GET /api/v2/users/8812/orders?limit=20 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: curl/7.88.1\r\n" +
		"Accept: application/json\r\nAuthorization: Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln\r\n\r\n")
	response := []byte("HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\n" +
		"Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"orders\":[]}")
	in := chunk.Chunk{Kind: chunk.Data, Direction: chunk.Ingress, Flags: chunk.Fresh | chunk.Head, Stream: 1, Data: request, Length: uint32(len(request))}
	out := in
	out.Direction, out.Data, out.Length = chunk.Egress, response, uint32(len(response))
	b.ReportAllocs()
	for b.Loop() {
		in.Heads++
		out.Heads++
		f.Feed(&in)
		f.Feed(&out)
		in.Offset += uint64(in.Length)
		out.Offset += uint64(out.Length)
	}
	if n != b.N {
		b.Fatalf("%d of %d", n, b.N)
	}
}
