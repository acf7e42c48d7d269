package bpf

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/btf"
)

// The Go twin against the C types.
func TestWire(t *testing.T) {
	if eventBytes != 152 {
		t.Errorf("Event has %d bytes", eventBytes)
	}
	spec, err := loadProc()
	if err != nil {
		t.Fatal(err)
	}
	var c *btf.Struct
	if err := spec.Types.TypeByName("event", &c); err != nil {
		t.Fatal(err)
	}
	if int(c.Size) != eventBytes {
		t.Errorf("struct event has %d bytes, Event %d", c.Size, eventBytes)
	}
	names, err := countNames(spec)
	if err != nil {
		t.Fatal(err)
	}
	if int(spec.Maps["counts"].MaxEntries) != len(names) {
		t.Errorf("%d names for %d counters", len(names), spec.Maps["counts"].MaxEntries)
	}
	seen := map[string]bool{}
	for _, n := range names {
		if seen[n.name] {
			t.Errorf("%s is named twice", n.name)
		}
		seen[n.name] = true
	}
}

func TestDecode(t *testing.T) {
	whole := func(captured uint32, payload int) []byte {
		e := Event{Kind: EventData, Captured: captured, Stream: 7, Comm: [16]uint8{'x'}}
		raw := unsafe.Slice((*byte)(unsafe.Pointer(&e)), eventBytes)
		return append(bytes.Clone(raw), bytes.Repeat([]byte{'p'}, payload)...)
	}
	for _, c := range []struct {
		name string
		raw  []byte
		want int // bytes of data; -1 = malformed
	}{
		{"empty", nil, -1},
		{"short", whole(0, 0)[:eventBytes-1], -1},
		{"header alone", whole(0, 0), 0},
		{"class larger than captured", whole(5, 256), 5},
		{"captured beyond the record", whole(257, 256), -1},
		{"captured near 2^32", whole(^uint32(0), 256), -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Record{}
			err := r.decode(c.raw)
			if (c.want < 0) != errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			if c.want >= 0 && (len(r.Data) != c.want || r.Event.Stream != 7) {
				t.Errorf("decoded %+v with %d bytes", r.Event, len(r.Data))
			}
		})
	}
}

func TestReaderCloseWakes(t *testing.T) {
	o := load(t, Options{})
	r, err := o.Reader()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		var record Record
		for {
			if err := r.Read(&record); err != nil && !errors.Is(err, ErrDrained) {
				done <- err
				return
			}
		}
	}()
	time.Sleep(30 * time.Millisecond)
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-done:
		if !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(time.Second):
		t.Error("Close does not wake Read")
	}
}
