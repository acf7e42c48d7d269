package http1

import (
	"bufio"
	"bytes"
	"net/http"
	"testing"

	"github.com/spile/spile/agent/parse"
)

const (
	benchRequest = "GET /api/v2/users/8812/orders?limit=20&offset=40 HTTP/1.1\r\nHost: shop.example.com\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nAccept: application/json\r\n" +
		"Accept-Encoding: gzip, deflate, br\r\nAuthorization: Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln\r\n" +
		"Cookie: session=4b1f7a9c0d; theme=dark\r\nX-Request-Id: 5f0c9a52-2c7e-4d0e-9d5f-0a1b2c3d4e5f\r\n" +
		"Connection: keep-alive\r\n\r\n"
	benchResponse = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\n" +
		"Content-Type: application/json\r\nContent-Length: 27\r\nConnection: keep-alive\r\n" +
		"X-Request-Id: 5f0c9a52-2c7e-4d0e-9d5f-0a1b2c3d4e5f\r\n\r\n{\"orders\":[],\"next\":\"none\"}"
)

// One exchange: request head, response head, body, pairing, emit.
func BenchmarkExchange(b *testing.B) {
	p := New(parse.DefaultLimits(), false, func(*parse.Exchange) {})
	request, response := []byte(benchRequest), []byte(benchResponse)
	b.ReportAllocs()
	b.SetBytes(int64(len(request) + len(response)))
	for b.Loop() {
		if p.Feed(parse.Requests, request, 0) != nil || p.Feed(parse.Responses, response, 0) != nil {
			b.Fatal("refused")
		}
	}
	if p.Counts().Emitted != uint64(b.N) {
		b.Fatal("not every exchange was emitted")
	}
}

// The same bytes through net/http, for the ratio.
func BenchmarkNetHTTP(b *testing.B) {
	request, response := []byte(benchRequest), []byte(benchResponse)
	var in bytes.Reader
	r := bufio.NewReader(&in)
	b.ReportAllocs()
	b.SetBytes(int64(len(request) + len(response)))
	for b.Loop() {
		in.Reset(request)
		r.Reset(&in)
		req, err := http.ReadRequest(r)
		if err != nil {
			b.Fatal(err)
		}
		in.Reset(response)
		r.Reset(&in)
		if _, err := http.ReadResponse(r, req); err != nil {
			b.Fatal(err)
		}
	}
}
