package flow

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/spile/spile/agent/chunk"
	"github.com/spile/spile/agent/parse"
)

// script turns fuzzed bytes into chunks of a few streams: eight bytes of facts, then data.
func script(b []byte) []chunk.Chunk {
	var out []chunk.Chunk
	var offset [4][2]uint64
	var heads [4][2]uint32
	for at := time.Duration(0); len(b) >= 8; at += 20 * time.Millisecond {
		s, d := b[0]&3, b[0]>>2&1
		c := chunk.Chunk{
			Kind: chunk.Data, Direction: chunk.Direction(d), Stream: chunk.StreamID(s), Flags: chunk.Flags(b[1]) &^ chunk.Unbound,
			Time: at, Length: uint32(binary.LittleEndian.Uint16(b[2:])),
		}
		n := min(int(c.Length), len(b)-8)
		if b[0]&0x40 != 0 { // a hole before it
			offset[s][d] += uint64(b[4])
			heads[s][d] += uint32(b[5] & 3)
		}
		if b[0]&0x20 != 0 { // bytes again
			offset[s][d] -= min(offset[s][d], uint64(b[6]))
		}
		if b[0]&0x10 != 0 { // cut short
			n = min(n, int(b[7]))
		}
		c.Data = b[8 : 8+n]
		b = b[8+n:]
		if c.Flags.Has(chunk.Head) {
			heads[s][d]++
		}
		c.Offset, c.Heads = offset[s][d], heads[s][d]
		offset[s][d] += uint64(c.Length)
		if c.Flags.Has(chunk.Fresh | chunk.Truncated | chunk.Fault) {
			c = chunk.Chunk{
				Kind: chunk.Close, Stream: c.Stream, Time: at, Offset: offset[s][1], PeerOff: offset[s][0],
				Heads: heads[s][1], PeerHeads: heads[s][0],
			}
		}
		out = append(out, c)
	}
	return out
}

func FuzzFlow(f *testing.F) {
	say := func(head byte, flags chunk.Flags, data string) []byte {
		b := []byte{head, byte(flags), 0, 0, 9, 1, 3, 200}
		binary.LittleEndian.PutUint16(b[2:], uint16(len(data)))
		return append(b, data...)
	}
	one := append(say(0, chunk.Fresh|chunk.Head, "POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nok"),
		say(4, chunk.Fresh|chunk.Head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")...)
	f.Add(one)
	f.Add(append(one, one...))
	f.Add(append(say(1, chunk.Fresh, http2.ClientPreface+newTalker().settings()), say(5, chunk.Fresh, newTalker().settings())...))
	f.Add(append(say(0x40, chunk.Head, "GET / HTTP/1.1\r\n\r\n"), say(0, chunk.Fresh|chunk.Truncated|chunk.Fault, "")...))
	f.Fuzz(func(t *testing.T, b []byte) {
		begun := time.Now()
		calls := uint64(0)
		flow := New(Config{
			Limits:     parse.Limits{Head: 1024, Body: 64, Open: 4, Names: 8},
			MaxStreams: 3, MaxBuffered: 8 << 10, Idle: time.Second,
			Emit: func(s *Stream, x *parse.Exchange) {
				calls++
				if !x.Seen() || s.Protocol == "" {
					t.Fatalf("%+v %+v", s, x)
				}
			},
		})
		var old Counts
		for _, c := range script(b) {
			flow.Feed(&c)
			flow.Tick(c.Time)
			n := flow.Counts()
			if n.Calls != calls || n.Lost() < old.Lost() || n.Unanswered < old.Unanswered {
				t.Fatalf("%+v after %+v", n, old)
			}
			old = n
			if flow.buffered < 0 || flow.buffered > 8<<10 || len(flow.streams) > 6 || len(flow.closing) > 6 {
				t.Fatalf("%d bytes, %d streams, %d closing", flow.buffered, len(flow.streams), len(flow.closing))
			}
		}
		flow.Flush()
		if flow.buffered != 0 || len(flow.streams) != 0 || flow.active.n+flow.parked.n != 0 {
			t.Fatalf("left: %d bytes, %d streams", flow.buffered, len(flow.streams))
		}
		if d := time.Since(begun); d > 5*time.Second {
			t.Fatalf("%d bytes took %v", len(b), d)
		}
	})
}
