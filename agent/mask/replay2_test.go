package mask_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/mask"
)

// h2 writes one direction of an HTTP/2 connection.
type h2 struct {
	block bytes.Buffer
	enc   *hpack.Encoder
	out   []byte
}

func newH2(first string) *h2 {
	w := &h2{out: []byte(first)}
	w.enc = hpack.NewEncoder(&w.block)
	w.frame(4, 0, 0, nil)
	return w
}

func (w *h2) frame(typ, flags byte, stream uint32, p []byte) {
	w.out = append(w.out, byte(len(p)>>16), byte(len(p)>>8), byte(len(p)), typ, flags)
	w.out = append(binary.BigEndian.AppendUint32(w.out, stream), p...)
}

func (w *h2) message(t *testing.T, stream uint32, body string, pairs ...string) {
	w.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		if err := w.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
			t.Fatal(err)
		}
	}
	w.frame(1, 4, stream, w.block.Bytes())
	w.frame(0, 1, stream, []byte(body))
}

// The same over HTTP/2, where the masked stream has lengths of its own.
func TestReplayHTTP2(t *testing.T) {
	m := &maker{r: rand.New(rand.NewPCG(3, 4))}
	for i := range 300 {
		m.secrets = m.secrets[:0]
		req, res := newH2("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), newH2("")
		for s := range uint32(4) {
			req.message(t, 2*s+1, fmt.Sprintf(`{%q:%q,"email":"joe@example.com"}`, m.secret(), m.secret()), ":method", "POST", ":scheme", "https", ":authority", "shop.example",
				":path", "/users/42/"+m.secret()+"?key="+m.secret(), "authorization", "Bearer "+m.secret(), "cookie", "sid="+m.secret(), "content-type", "application/json", "x-custom", m.secret())
			res.message(t, 2*s+1, fmt.Sprintf(`[{"id":%d,"token":%q}]`, s, m.secret()), ":status", "200", "content-type", "application/json", "set-cookie", "sid="+m.secret(), "etag", m.secret())
		}
		var raw, masked []*chunk.Chunk
		for d, data := range [][]byte{req.out, res.out} {
			for off, seq := 0, uint32(0); off < len(data); seq++ {
				n := min(len(data)-off, 40+m.r.IntN(len(data)))
				raw = append(raw, &chunk.Chunk{Kind: chunk.Data, Layer: chunk.LayerTLS, Direction: chunk.Direction(d), Flags: chunk.Fresh, Stream: 1, Conn: 1, Offset: uint64(off), Seq: seq,
					Time: time.Duration(len(raw)), Length: uint32(n), Data: data[off : off+n]})
				off += n
			}
		}
		raw = append(raw, &chunk.Chunk{Kind: chunk.Close, Layer: chunk.LayerTLS, Stream: 1, Conn: 1, Offset: uint64(len(res.out)), PeerOff: uint64(len(req.out)), Time: time.Second})
		masker := mask.New(func(c *chunk.Chunk) { masked = append(masked, c) })
		var all []byte
		for _, c := range raw {
			masker.Feed(c)
		}
		masker.Flush()
		for _, c := range masked {
			all = append(all, c.Data...)
		}
		want, got := replay(raw), replay(masked)
		if len(want) != 4 || len(got) != 4 {
			t.Fatalf("%d: %d calls, masked %d", i, len(want), len(got))
		}
		for j := range want {
			if w, g := same(want[j]), same(got[j]); w != g {
				t.Fatalf("%d: call %d becomes\n%s\nwas\n%s", i, j, g, w)
			}
		}
		for _, s := range m.secrets {
			core := s[len(s)/4 : len(s)-len(s)/4]
			for _, needle := range []string{core, hex.EncodeToString([]byte(core)), base64.StdEncoding.EncodeToString([]byte(core))[:len(core)]} {
				if bytes.Contains(all, []byte(needle)) {
					t.Fatalf("%d: %q is in the masked recording", i, needle)
				}
			}
		}
	}
}
