package columns

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// A call that was taken back, or refused in its middle, leaves no trace.
func TestUndo(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	enc := newEncoder(t)
	for range 200 {
		var kept []*v1.Call
		b := NewBatch()
		for range 1 + r.IntN(20) {
			c := randomCall(r)
			size := b.Size()
			if err := b.Add(c); err != nil {
				t.Fatal(err)
			}
			switch r.IntN(3) {
			case 0:
				if b.Undo(); b.Size() != size {
					t.Fatalf("%d bytes after a call was taken back, %d before it came", b.Size(), size)
				}
				continue
			case 1:
				bad := randomCall(r)
				bad.Request = &v1.Content{HeaderNames: []string{"\xff"}, Fields: []*v1.Field{{Path: "new", Hash: "h:" + strings.Repeat("cd", hashBytes)}}}
				if size = b.Size(); b.Add(bad) == nil || b.Size() != size {
					t.Fatalf("a call that cannot be sent was taken, or left %d bytes", b.Size()-size)
				}
			}
			kept = append(kept, c)
		}
		if b.Len() != len(kept) {
			t.Fatalf("%d calls, want %d", b.Len(), len(kept))
		}
		want, err := enc.Encode(nil, kept)
		if err != nil {
			t.Fatal(err)
		}
		got, err := enc.Finish(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%d calls make another payload after others were taken back", len(kept))
		}
	}
}

// The payload is no larger than the batch says, whatever is in it.
func TestSizeIsABound(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	enc := newEncoder(t)
	for i := range 100 {
		b := NewBatch()
		calls := realistic(uint64(i), 200)
		for range 50 {
			c := randomCall(r)
			c.Path = "/" + strings.Repeat("a/", r.IntN(100))
			calls = append(calls, c)
		}
		for _, c := range calls {
			if err := b.Add(c); err != nil {
				t.Fatal(err)
			}
		}
		size := b.Size()
		payload, err := enc.Finish(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		if raw := len(enc.raw); len(payload) > size || raw > size {
			t.Errorf("a payload of %d bytes, one part of it %d uncompressed; the batch said %d", len(payload), raw, size)
		}
	}
}
