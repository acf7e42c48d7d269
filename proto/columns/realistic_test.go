package columns

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	v1 "github.com/spile/spile/proto/spile/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// realistic makes calls as one node sees them: 30 services with 1,200 endpoints in all, picked by
// Zipf; numeric ids in paths with a keyed hash, 2,000 users with sessions and bearer tokens, random
// ports, sizes, times in microseconds; a coverage that moves by a thousandth at every hundredth call of a service.
func realistic(seed uint64, n int) []*v1.Call {
	r := rand.New(rand.NewPCG(seed, 7))
	endpoints := rand.NewZipf(r, 1.1, 4, 1199)
	users := rand.NewZipf(r, 1.05, 10, 1999)
	now := time.Unix(1_795_255_200, 0)
	var coverage [30]int
	for i := range coverage {
		coverage[i] = 1000 - i%4*i%7
	}
	moves := rand.New(rand.NewPCG(seed, 8))
	calls := make([]*v1.Call, n)
	for i := range calls {
		e, user := int(endpoints.Uint64()), users.Uint64()
		service := e % 30
		now = now.Add(time.Duration(r.ExpFloat64()*200) * time.Microsecond)
		object := r.IntN(100_000)
		if moves.IntN(100) == 0 {
			coverage[service] = min(1000, coverage[service]-1+2*moves.IntN(2))
		}
		calls[i] = &v1.Call{
			Id: hexOf(r.Uint64(), r.Uint64()), Time: timestamppb.New(now),
			Duration: durationpb.New(time.Duration(r.ExpFloat64()*5000) * time.Microsecond),
			Node:     "node-17", Observed: v1.Observed_OBSERVED_SERVER, Protocol: "http/1.1", Scheme: "https",
			Method: []string{"GET", "GET", "GET", "POST", "PUT"}[e%5], Authority: fmt.Sprintf("service-%d.shop.example:8443", service),
			Path:       fmt.Sprintf("/api/v1/resource-%d/%d/items", e, object),
			StatusCode: []uint32{200, 200, 200, 200, 201, 404, 500}[r.IntN(7)],
			Source: &v1.Peer{Address: fmt.Sprintf("10.0.%d.%d", r.IntN(2), r.IntN(60)), Port: 32768 + r.Uint32N(28000),
				Process: "envoy"},
			Destination: &v1.Peer{Address: "10.0.9." + strconv.Itoa(service), Port: 8443, Process: "nginx", Pid: 4000 + uint32(service),
				BuildId: hexOf(uint64(service), 99), Container: hexOf(uint64(service), 5) + hexOf(uint64(service), 6),
				Coverage: proto.Float64(float64(coverage[service]) / 1000)},
			Principal: "h:" + hexOf(user*7919, user)[:24], Session: "h:" + hexOf(user*104729, user)[:24], KeyEpoch: 1,
			Auth: &v1.Auth{Scheme: "bearer", Location: "header", Credential: "h:" + hexOf(user*1299709, user)[:24], Name: "authorization"},
			Tls:  &v1.Tls{Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256", Group: "X25519", Sni: fmt.Sprintf("service-%d.shop.example", service), Alpn: "http/1.1"},
			Request: &v1.Content{Bytes: proto.Uint64(0), HeaderNames: []string{"host", "accept", "user-agent", "authorization", "x-request-id"},
				Fields: []*v1.Field{{Path: "path.3", Type: "integer", Hash: "h:" + hexOf(uint64(object)*15485863, uint64(object))[:24], Length: uint32(len(strconv.Itoa(object))), Count: 1}}},
			Response: &v1.Content{Bytes: proto.Uint64(uint64(200 + r.IntN(4000))), ContentType: proto.String("application/json"),
				HeaderNames: []string{"content-type", "content-length", "date", "server"}, Shape: "h:" + hexOf(uint64(e), 3)[:24], Records: r.Uint32N(20),
				Fields: []*v1.Field{{Path: "body[].email", Type: "string", Class: "email", Count: r.Uint32N(20)}, {Path: "body[].id", Type: "integer", Count: r.Uint32N(20)}}},
		}
	}
	return calls
}

func hexOf(a, b uint64) string {
	// Spread the bits, so that small numbers look like hashes.
	x := rand.NewPCG(a, b)
	var out [16]byte
	for i := range 2 {
		v := x.Uint64()
		for k := range 8 {
			out[8*i+k] = byte(v >> (8 * k))
		}
	}
	return hex.EncodeToString(out[:])
}

func BenchmarkEncode(b *testing.B) {
	for _, n := range []int{100, 1000, 5000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			calls, enc := realistic(1, n), newEncoder(b)
			var payload []byte
			var err error
			b.ReportAllocs()
			for b.Loop() {
				if payload, err = enc.Encode(payload[:0], calls); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/call")
			b.ReportMetric(float64(len(payload))/float64(n), "B/call")
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	calls := realistic(1, 1000)
	payload, err := newEncoder(b).Encode(nil, calls)
	if err != nil {
		b.Fatal(err)
	}
	dec := newDecoder(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := dec.Decode(payload); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/call")
}

// The bounds leave little headroom above what is measured; a column that stops compressing goes over.
// Of the full mix, 49 bytes a call are ids and keyed hashes, which nothing compresses.
func TestBytesPerCall(t *testing.T) {
	for _, c := range []struct {
		name  string
		strip func(*v1.Call)
		max   float64
	}{
		{"with keyed hashes of principal, session, credential and object", func(*v1.Call) {}, 84},
		{"without keyed hashes", withoutHashes, 42},
	} {
		for _, n := range []int{100, 1000} {
			calls := realistic(2, n)
			for _, call := range calls {
				c.strip(call)
			}
			payload, err := newEncoder(t).Encode(nil, calls)
			if err != nil {
				t.Fatal(err)
			}
			perCall := float64(len(payload)) / float64(n)
			t.Logf("%s, %d calls: %.1f bytes per call", c.name, n, perCall)
			if n == 1000 && perCall > c.max {
				t.Errorf("%s: %.1f bytes per call, want at most %.0f", c.name, perCall, c.max)
			}
		}
	}
}

// withoutHashes leaves the calls of an API without credentials.
func withoutHashes(c *v1.Call) {
	c.Principal, c.Session, c.Auth, c.Response.Shape = "", "", nil, ""
	for _, f := range c.Request.Fields {
		f.Hash = ""
	}
}
