package flow

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/parse"
	"github.com/spile/spile/agent/parse/http1"
)

// world is a kernel that is seen through: it cuts conversations into chunks, counts heads and loses some.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	flow  *Flow
	clock time.Duration
	lose  float64 // of each chunk
	// sent and got are requests by name.
	sent  int
	calls []string
	told  map[chunk.StreamID]Told
	ends  map[chunk.ConnID]Told // by the connection that a stream had
	muted []chunk.StreamID
}

func newWorld(t *testing.T, seed uint64, lose float64) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), lose: lose, told: map[chunk.StreamID]Told{}, ends: map[chunk.ConnID]Told{}}
	w.flow = New(Config{
		Emit: func(s *Stream, x *parse.Exchange) {
			if !x.Seen() {
				t.Errorf("not seen: %+v", x)
			}
			want := field(x.Response, "x-of")
			unknown := want == "" && (x.Response.UnknownHeaders > 0 || x.Response.Shed) // HPACK after a loss
			if x.Request.Target != want && !unknown {
				t.Errorf("seed %d: request %s was given the response to %s", seed, x.Request.Target, want)
			}
			w.calls = append(w.calls, strings.Clone(x.Request.Target))
		},
		Settled: func(s *Stream, n Told) {
			w.told[s.ID], w.ends[s.Conn] = w.told[s.ID].plus(n), w.ends[s.Conn].plus(n)
		},
		Mute: func(id chunk.StreamID) { w.muted = append(w.muted, id) },
	})
	return w
}

func (t Told) plus(n Told) Told {
	return Told{t.Calls + n.Calls, t.Lost + n.Lost, t.Unanswered + n.Unanswered}
}

func (t Told) sum() uint64 { return t.Calls + t.Lost + t.Unanswered }

func field(m *parse.Message, name string) string {
	for _, f := range m.Header {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// wire is one stream as the kernel sees it.
type wire struct {
	*world
	id     chunk.StreamID
	client bool
	fresh  bool
	conn   chunk.ConnID // 0 while no socket is known
	offset [2]uint64
	heads  [2]uint32
	seq    [2]uint32
	shed   bool // responses are left out
}

func (w *world) dial(id int, client bool) *wire {
	return &wire{world: w, id: chunk.StreamID(id), client: client, fresh: true, conn: chunk.ConnID(id)}
}

func (w *wire) chunk(kind chunk.Kind, d chunk.Direction) chunk.Chunk {
	w.clock += time.Millisecond
	c := chunk.Chunk{Kind: kind, Direction: d, Stream: w.id, Conn: w.conn, Time: w.clock}
	if w.fresh {
		c.Flags |= chunk.Fresh
	}
	if w.conn == 0 {
		c.Flags |= chunk.Unbound
		return c
	}
	c.ConnBirth = time.Duration(w.conn)
	c.Local = netip.MustParseAddrPort("127.0.0.1:8080")
	c.Remote = netip.AddrPortFrom(c.Local.Addr(), 40000+uint16(w.conn))
	if w.client {
		c.Local, c.Remote = c.Remote, c.Local
	}
	return c
}

// say moves bytes from one side; truncated of them are not captured.
func (w *wire) say(side parse.Side, data string, captured int) {
	d := chunk.Direction(side) // Ingress at a server
	if w.client {
		d = 1 - d
	}
	c := w.chunk(chunk.Data, d)
	c.Offset, c.Seq, c.Length = w.offset[d], w.seq[d], uint32(len(data))
	c.Data = []byte(data[:captured])
	switch {
	case w.shed && side == parse.Responses:
		c.Flags, c.Data = c.Flags|chunk.Shed, nil
	case captured < len(data):
		c.Flags |= chunk.Truncated
	}
	if http1.Sniff(side, []byte(data)) == parse.Yes {
		c.Flags |= chunk.Head
		w.heads[d]++
	}
	c.Heads = w.heads[d]
	w.offset[d] += uint64(len(data))
	w.seq[d]++
	if w.rng.Float64() >= w.lose {
		w.flow.Feed(&c)
	}
}

// whole says data in one buffer.
func (w *wire) whole(side parse.Side, data string) { w.say(side, data, len(data)) }

func (w *wire) close() {
	c := w.chunk(chunk.Close, chunk.Egress)
	c.Offset, c.PeerOff = w.offset[chunk.Egress], w.offset[chunk.Ingress]
	c.Heads, c.PeerHeads = w.heads[chunk.Egress], w.heads[chunk.Ingress]
	w.flow.Feed(&c)
}

// pieces says data in random pieces. The first holds enough for the kernel to see a head.
func (w *wire) pieces(side parse.Side, data string) {
	for first := true; len(data) > 0; first = false {
		n := len(data)
		if w.rng.IntN(3) == 0 {
			n = 1 + w.rng.IntN(len(data))
		}
		if first {
			n = max(n, min(len(data), 20))
		}
		captured := n
		if w.lose > 0 && w.rng.IntN(10) == 0 {
			captured = max(min(n, 20), w.rng.IntN(n+1))
		}
		w.say(side, data[:n], captured)
		data = data[n:]
	}
}

// exchange says one request and its response, framed in one of the many ways.
func (w *wire) exchange(answered bool) {
	name := fmt.Sprintf("/%d/%d", w.id, w.sent)
	w.sent++
	body := strings.Repeat("b", w.rng.IntN(200))
	method := []string{"GET", "POST", "HEAD", "PUT"}[w.rng.IntN(4)]
	switch method {
	case "POST":
		w.pieces(parse.Requests, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", name, len(body), body))
	case "PUT":
		w.pieces(parse.Requests, fmt.Sprintf("PUT %s HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%s", name, chunks(body)))
	default:
		w.pieces(parse.Requests, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: a\r\n\r\n", method, name))
	}
	if !answered {
		return
	}
	head := "HTTP/1.1 200 OK\r\nX-Of: " + name + "\r\n"
	switch kind := w.rng.IntN(3); {
	case method == "HEAD":
		w.pieces(parse.Responses, head+"Content-Length: 1000\r\n\r\n")
	case kind == 0:
		w.pieces(parse.Responses, fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(body), body))
	case kind == 1:
		w.pieces(parse.Responses, head+"Transfer-Encoding: chunked\r\n\r\n"+chunks(body))
	default:
		w.pieces(parse.Responses, "HTTP/1.1 204 No Content\r\nX-Of: "+name+"\r\n\r\n")
	}
}

func chunks(body string) string {
	var b strings.Builder
	for len(body) > 0 {
		n := min(len(body), 50)
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return b.String() + "0\r\n\r\n"
}
