package mask_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/call"
	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/flow"
	"github.com/spile/spile/agent/mask"
	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/proto/segment"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// replay makes calls of a recording.
func replay(chunks []*chunk.Chunk) []*v1.Call {
	var out []*v1.Call
	d := call.New(call.Config{Key: bytes.Repeat([]byte{1}, 32)})
	f := flow.New(flow.Config{Limits: parse.DefaultLimits(), Emit: func(_ *flow.Stream, x *parse.Exchange) {
		if c := d.Describe(call.Context{}, x); c != nil {
			out = append(out, c)
		}
	}})
	for _, c := range chunks {
		f.Feed(c)
		f.Tick(c.Time)
	}
	f.Flush()
	return out
}

// same is what a masked recording must keep of a call.
func same(c *v1.Call) string {
	var b strings.Builder
	fmt.Fprintln(&b, c.Method, c.StatusCode, c.Auth.GetScheme(), c.Auth.GetLocation(), c.Auth.GetName(), c.Auth.GetJwt().GetAlg(), c.Auth.GetJwt().GetClaims(), c.Coverage)
	for s := range strings.SplitSeq(c.Path, "/") {
		fmt.Fprint(&b, "/", segment.Mask(s))
	}
	for _, x := range []*v1.Content{c.Request, c.Response} {
		fmt.Fprintln(&b, "\n", x.GetBytes(), x.GetContentType(), x.HeaderNames, x.Records)
		for _, f := range x.Fields {
			fmt.Fprintln(&b, f.Path, f.Type, f.Class, f.Length, f.Count)
		}
	}
	return b.String()
}

type maker struct {
	r       *rand.Rand
	secrets []string
}

func (m *maker) secret() string {
	raw := make([]byte, 16+m.r.IntN(16))
	for i := range raw {
		raw[i] = byte(m.r.Uint32())
	}
	s := hex.EncodeToString(raw)
	switch m.r.IntN(3) {
	case 0:
		s = base64.RawURLEncoding.EncodeToString(raw)
	case 1:
		s = "ghp_" + s
	}
	m.secrets = append(m.secrets, s)
	return s
}

func (m *maker) exchange() (req, res string) {
	enc := base64.RawURLEncoding.EncodeToString
	jwt := enc([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + enc([]byte(`{"iss":"https://idp.example","sub":"`+m.secret()+`","exp":1800000000}`)) + "." + m.secret()
	auth := []string{"Bearer " + m.secret(), "Bearer " + jwt, "Basic " + base64.StdEncoding.EncodeToString([]byte("joe:"+m.secret()))}[m.r.IntN(3)]
	body := fmt.Sprintf(`{"user":{"email":"joe@example.com","password":%q,"age":%d},"tags":["a",%q],"token":%q,"ok":true,"card":"4111111111111111"}`, m.secret(), 10+m.r.IntN(80), m.secret(), m.secret())
	if m.r.IntN(2) == 0 {
		body = fmt.Sprintf(`{%q:%q,"id":%d,"when":"2026-11-21","iban":"DE89370400440532013000"}`, m.secret(), m.secret(), m.r.IntN(1e6))
	}
	req = fmt.Sprintf("POST /users/%d/%s/orders?page=2&key=%s HTTP/1.1\r\nHost: shop.example\r\nAuthorization: %s\r\nCookie: sid=%s; theme=%s\r\nX-Custom: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		m.r.IntN(1000), m.secret(), m.secret(), auth, m.secret(), m.secret(), m.secret(), len(body), body)
	form := "user=" + m.secret() + "&password=" + m.secret()
	res = fmt.Sprintf("HTTP/1.1 200 OK\r\nSet-Cookie: sid=%s; Path=/\r\nServer: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n",
		m.secret(), m.secret(), len(form), form)
	return req, res
}

// A masked recording replays to the same calls, less their values, and holds none of them.
func TestReplay(t *testing.T) {
	n := 3000
	if testing.Short() {
		n = 300
	}
	m := &maker{r: rand.New(rand.NewPCG(1, 2))}
	for i := range n {
		m.secrets = m.secrets[:0]
		var raw, masked []*chunk.Chunk
		masker := mask.New(func(c *chunk.Chunk) { masked = append(masked, c) })
		var off [2]uint64
		var seq [2]uint32
		feed := func(d chunk.Direction, s string) {
			raw = append(raw, &chunk.Chunk{Kind: chunk.Data, Layer: chunk.LayerTLS, Direction: d, Flags: chunk.Fresh | chunk.Head, Stream: 1, Conn: 1, Offset: off[d], Seq: seq[d],
				Time: time.Duration(len(raw)), Length: uint32(len(s)), Heads: seq[d] + 1, Data: []byte(s)})
			off[d] += uint64(len(s))
			seq[d]++
		}
		for range 3 {
			req, res := m.exchange()
			feed(chunk.Ingress, req)
			feed(chunk.Egress, res)
		}
		raw = append(raw, &chunk.Chunk{Kind: chunk.Close, Stream: 1, Conn: 1, Offset: off[1], PeerOff: off[0], Heads: seq[1], PeerHeads: seq[0], Time: time.Second})
		var bytesOut []byte
		for _, c := range raw {
			masker.Feed(c)
		}
		masker.Flush()
		for _, c := range masked {
			bytesOut = append(bytesOut, c.Data...)
		}
		want, got := replay(raw), replay(masked)
		if len(want) != 3 || len(got) != 3 {
			t.Fatalf("%d: %d calls, masked %d", i, len(want), len(got))
		}
		for j := range want {
			if w, g := same(want[j]), same(got[j]); w != g {
				t.Fatalf("%d: call %d becomes\n%s\nwas\n%s", i, j, g, w)
			}
		}
		for _, s := range m.secrets {
			core := s[len(s)/4 : len(s)-len(s)/4]
			for _, needle := range []string{core, hex.EncodeToString([]byte(core)), base64.StdEncoding.EncodeToString([]byte(core))[:len(core)], base64.StdEncoding.EncodeToString([]byte("x" + core))[4:len(core)], base64.StdEncoding.EncodeToString([]byte("xx" + core))[4:len(core)]} {
				if bytes.Contains(bytesOut, []byte(needle)) {
					t.Fatalf("%d: %q is in the masked recording", i, needle)
				}
			}
		}
	}
}
