package mask

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"github.com/spile/spile/agent/chunk"
)

// play feeds a talk cut at random and returns what both directions say afterwards.
func play(t testing.TB, r *rand.Rand, requests, responses []byte) (req, res []byte) {
	t.Helper()
	var seq [2]uint32
	var next [2]uint64
	m := New(func(c *chunk.Chunk) {
		if c.Kind == chunk.Close {
			if c.Offset != next[chunk.Egress] || c.PeerOff != next[chunk.Ingress] {
				t.Errorf("close at %d and %d, streams end at %d and %d", c.Offset, c.PeerOff, next[chunk.Egress], next[chunk.Ingress])
			}
			return
		}
		if c.Offset != next[c.Direction] || int(c.Length) != len(c.Data) {
			t.Errorf("chunk at %d of %d bytes, want offset %d", c.Offset, c.Length, next[c.Direction])
		}
		next[c.Direction] += uint64(c.Length)
		if c.Direction == chunk.Ingress {
			req = append(req, c.Data...)
		} else {
			res = append(res, c.Data...)
		}
	})
	feed := func(d chunk.Direction, data []byte, size int) {
		for off := 0; off < len(data); {
			n := min(len(data)-off, size)
			if r != nil {
				n = 1 + r.IntN(n)
			}
			m.Feed(&chunk.Chunk{Kind: chunk.Data, Direction: d, Stream: 1, Offset: uint64(off), Seq: seq[d], Length: uint32(n), Data: data[off : off+n]})
			seq[d]++
			off += n
		}
	}
	feed(chunk.Ingress, requests, 1<<16)
	feed(chunk.Egress, responses, 1<<16)
	m.Feed(&chunk.Chunk{Kind: chunk.Close, Stream: 1, Offset: uint64(len(responses)), PeerOff: uint64(len(requests))})
	m.Flush()
	return req, res
}

const secret = "x7KqPz4mN2vB8wLcT1aR5dYh"

func TestHTTP1(t *testing.T) {
	request := "POST /users/42/" + secret + "?page=2&token=" + secret + " HTTP/1.1\r\nHost: shop.example\r\nAuthorization: Basic am9lOmh1bnRlcjI=\r\nCookie: sid=" + secret + "\r\n" +
		"Content-Type: application/json\r\nContent-Length: 58\r\nX-Thing: hunter2\r\n\r\n" +
		`{"email":"joe@example.com","n":[12,true,null],"pw":"hunt"}` + "GET /a HTTP/1.1\r\n\r\n"
	response := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"13;ext=hunter2\r\n{\"card\":\"4111111111\r\n9\r\n111111\"}\n\r\n0\r\nX-Sum: hunter2\r\n\r\n" + "HTTP/1.1 204 No Content\r\n\r\n"
	wantReq := "POST /users/42/q7Xz9Kj4Wv2Bp8Rtq7Xz9Kj4?page=1&token=q7Xz9Kj4Wv2Bp8Rtq7Xz9Kj4 HTTP/1.1\r\nHost: shop.example\r\nAuthorization: Basic eHh4eHg6eHh4eHg=\r\nCookie: sid=q7Xz9Kj4Wv2Bp8Rtq7Xz9Kj4\r\n" +
		"Content-Type: application/json\r\nContent-Length: 58\r\nX-Thing: xxxxxx0\r\n\r\n" +
		`{"email":"xxx@xxxxxxx.xxx","n":[11,true,null],"pw":"xxxx"}` + "GET /a HTTP/1.1\r\n\r\n"
	wantRes := "HTTP/1.1 200 XX\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"13;xxxxxxxxxxx\r\n{\"card\":\"xxxxxxxxxx\r\n9\r\nxxxxxx\"}\n\r\n0\r\nX-Sum: xxxxxx0\r\n\r\n" + "HTTP/1.1 204 XX XXXXXXX\r\n\r\n"
	req, res := play(t, nil, []byte(request), []byte(response))
	if string(req) != wantReq {
		t.Errorf("requests:\n%s\nwant:\n%s", req, wantReq)
	}
	if wantRes = strings.Replace(wantRes, "204 XX XXXXXXX", "204 Xx Xxxxxxx", 1); string(res) != wantRes {
		t.Errorf("responses:\n%s\nwant:\n%s", res, wantRes)
	}
	for seed := range uint64(200) {
		req, res := play(t, rand.New(rand.NewPCG(seed, 1)), []byte(request), []byte(response))
		if len(req) != len(request) || len(res) != len(response) {
			t.Fatalf("seed %d: lengths change", seed)
		}
		head, _, _ := bytes.Cut(req, []byte("\r\n\r\n"))
		if want, _, _ := strings.Cut(wantReq, "\r\n\r\n"); string(head) != want {
			t.Errorf("seed %d: head\n%s", seed, head)
		}
		for _, s := range []string{"hunter2", secret, "4111111", "joe@"} {
			if strings.Contains(string(req)+string(res), s) {
				t.Errorf("seed %d: %q is in the masked recording", seed, s)
			}
		}
	}
}

func TestGapBlanks(t *testing.T) {
	var out []byte
	m := New(func(c *chunk.Chunk) { out = append(out, c.Data...) })
	head := "GET /" + secret + " HTTP/1.1\r\nX-A: b"
	m.Feed(&chunk.Chunk{Kind: chunk.Data, Stream: 1, Length: uint32(len(head)), Data: []byte(head)})
	m.Feed(&chunk.Chunk{Kind: chunk.Data, Stream: 1, Offset: 500, Length: 7, Data: []byte("hunter2")})
	next := "GET /b HTTP/1.1\r\n\r\n"
	m.Feed(&chunk.Chunk{Kind: chunk.Data, Stream: 1, Offset: 507, Flags: chunk.Head, Length: uint32(len(next)), Data: []byte(next)})
	m.Flush()
	if want := strings.Repeat("x", len(head)+7) + next; string(out) != want {
		t.Errorf("got  %q\nwant %q", out, want)
	}
}

// Chunks leave in the order in which they came, and a head that never ends holds them up for a bounded time.
func TestOrderAndHold(t *testing.T) {
	var seen []chunk.StreamID
	m := New(func(c *chunk.Chunk) { seen = append(seen, c.Stream) })
	m.Feed(&chunk.Chunk{Kind: chunk.Data, Stream: 1, Length: 5, Data: []byte("GET /")})
	m.Feed(&chunk.Chunk{Kind: chunk.Data, Stream: 2, Length: 5, Data: []byte("\x00\x01\x02\x03\x04")})
	if len(seen) != 0 {
		t.Fatal("a chunk left before it was masked, or before its turn")
	}
	m.Feed(&chunk.Chunk{Kind: chunk.Data, Stream: 3, Time: holdTime, Length: 1, Data: []byte("\x01")})
	if fmt.Sprint(seen)[:4] != "[1 2" {
		t.Errorf("after the hold time %v are out", seen)
	}
	m.Flush()
	if len(seen) != 3 || len(m.queue) != 0 {
		t.Errorf("emitted %v", seen)
	}
}

// The end of a stream may overtake its last data.
func TestCloseBeforeData(t *testing.T) {
	var out []byte
	m := New(func(c *chunk.Chunk) { out = append(out, c.Data...) })
	a, b := "GET /a HTTP/1.1\r\n\r\nGET /b HTT", "P/1.1\r\nX-A: hunter2\r\n\r\n"
	m.Feed(&chunk.Chunk{Kind: chunk.Data, Stream: 1, Length: uint32(len(a)), Data: []byte(a)})
	m.Feed(&chunk.Chunk{Kind: chunk.Close, Stream: 1, PeerOff: uint64(len(a) + len(b))})
	m.Feed(&chunk.Chunk{Kind: chunk.Data, Stream: 1, Offset: uint64(len(a)), Length: uint32(len(b)), Data: []byte(b)})
	m.Flush()
	if want := "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\nX-A: xxxxxx0\r\n\r\n"; string(out) != want {
		t.Errorf("got  %q\nwant %q", out, want)
	}
}

func frame(typ, flags byte, stream uint32, p []byte) []byte {
	x := &frames{}
	x.write(typ, flags, stream, p)
	return x.out
}

func TestHTTP2(t *testing.T) {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	headers := func(pairs ...string) []byte {
		block.Reset()
		for i := 0; i < len(pairs); i += 2 {
			if err := enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
				t.Fatal(err)
			}
		}
		return bytes.Clone(block.Bytes())
	}
	in := append([]byte(preface), frame(frameSettings, 0, 0, nil)...)
	for i := range uint32(3) {
		b := headers(":method", "POST", ":scheme", "https", ":path", "/users/"+secret+"?q="+secret, ":authority", "shop.example", "authorization", "Bearer "+secret, "content-type", "application/json", "x-"+secret, "v")
		in = append(in, frame(frameHeaders, 0, 2*i+1, b[:len(b)/2])...)
		in = append(in, frame(frameContinuation, flagEndHeaders, 2*i+1, b[len(b)/2:])...)
		in = append(in, frame(frameData, flagEndStream, 2*i+1, []byte(`{"email":"joe@example.com","pw":"hunter2"}`))...)
	}
	for seed := range uint64(100) {
		out, _ := play(t, rand.New(rand.NewPCG(seed, 1)), in, frame(frameSettings, 0, 0, nil))
		x := newFrames()
		var got []string
		rest := out[len(preface):]
		for len(rest) >= frameHead {
			n := int(rest[0])<<16 | int(rest[1])<<8 | int(rest[2])
			p := rest[frameHead : frameHead+n]
			switch rest[3] {
			case frameHeaders:
				fields, err := x.decoder.DecodeFull(p)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range fields {
					got = append(got, f.Name+"="+f.Value)
				}
			case frameData:
				got = append(got, string(p))
			}
			rest = rest[frameHead+n:]
		}
		mask := "q7Xz9Kj4Wv2Bp8Rtq7Xz9Kj4"
		want := []string{":method=POST", ":scheme=https", ":path=/users/" + mask + "?q=" + mask, ":authority=shop.example", "authorization=Bearer " + mask, "content-type=application/json",
			strings.ToLower("q7Xz9Kj4Wv2Bp8Rtq7Xz9Kj4Wv") + "=x", `{"email":"xxx@xxxxxxx.xxx","pw":"xxxxxx0"}`}
		if len(got) != 3*len(want) || fmt.Sprint(got[len(want)*2:]) != fmt.Sprint(want) {
			t.Fatalf("seed %d:\n%q\nwant three times\n%q", seed, got, want)
		}
	}
}

func FuzzFeed(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"), uint64(1))
	f.Add([]byte(preface), frame(frameSettings, 0, 0, nil), uint64(2))
	f.Add([]byte("POST / HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\nffffffff\r\n"), []byte{}, uint64(3))
	f.Fuzz(func(t *testing.T, req, res []byte, seed uint64) {
		a, b := play(t, rand.New(rand.NewPCG(seed, 1)), req, res)
		if !bytes.HasPrefix(req, []byte("PRI")) && (len(res) < 9 || res[3] != frameSettings) && (len(req) < 9 || req[3] != frameSettings) && (len(a) != len(req) || len(b) != len(res)) {
			t.Errorf("%d and %d bytes in, %d and %d out", len(req), len(res), len(a), len(b))
		}
	})
}
