package chunk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func samples() []Chunk {
	return []Chunk{
		{
			Kind: Data, Layer: LayerTLS, Direction: Egress, Flags: Fresh | Head, Time: 5 * time.Second, Stream: 7, Conn: 9,
			ConnBirth: 4 * time.Second, Offset: 11, Seq: 3, Length: 5, Heads: 2,
			Local: netip.MustParseAddrPort("127.0.0.1:51000"), Remote: netip.MustParseAddrPort("[2001:db8::1]:443"),
			Owner: Owner{TGID: 100, TID: 101, Start: time.Minute, NetNS: 4026531840, Cgroup: 1 << 40, Comm: "nginx"},
			Data:  []byte("GET /"),
		},
		{Kind: Data, Layer: LayerSocket, Flags: Truncated | Unbound, Length: 9},
		{Kind: Close, Direction: Egress, Offset: 1 << 50, PeerOff: 12, Heads: 4, PeerHeads: 5, Owner: Owner{Comm: "sixteen-letters-"}},
		{Kind: Data, Local: netip.MustParseAddrPort("[::ffff:10.0.0.1]:80"), Data: bytes.Repeat([]byte{0xaa}, 9000), Length: 9000},
	}
}

func record(t testing.TB) []byte {
	var b bytes.Buffer
	w, err := NewWriter(&b, Header{Agent: "v1", Node: "n1", BootToUnix: 42})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range samples() {
		if err := w.Write(&c); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestRecordingRoundTrip(t *testing.T) {
	r, err := NewReader(bytes.NewReader(record(t)))
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Header(); got != (Header{Agent: "v1", Node: "n1", BootToUnix: 42}) {
		t.Fatalf("header %+v", got)
	}
	for i, want := range samples() {
		var got Chunk
		if err := r.Next(&got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("chunk %d:\n got %+v\nwant %+v", i, got, want)
		}
	}
	var c Chunk
	if err := r.Next(&c); err != io.EOF {
		t.Fatalf("after the last record: %v", err)
	}
}

// readAll returns how many chunks were read and the final error.
func readAll(b []byte) (int, error) {
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		return 0, err
	}
	for n := 0; ; n++ {
		var c Chunk
		if err := r.Next(&c); err != nil {
			return n, err
		}
	}
}

func TestRecordingCutAnywhere(t *testing.T) {
	b := record(t)
	ends := 0
	for n := range b {
		_, err := readAll(b[:n])
		if err == io.EOF {
			ends++
			continue
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrNotRecording) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	if ends != len(samples()) {
		t.Errorf("%d cuts read as a whole recording; only the %d at record borders are", ends, len(samples()))
	}
}

func TestRecordingEveryFlippedBitIsFound(t *testing.T) {
	b := record(t)
	for n := range b[:1200] {
		bad := bytes.Clone(b)
		bad[n] ^= 1 << (n % 8)
		if got, err := readAll(bad); err == io.EOF && got == len(samples()) {
			t.Fatalf("flip at %d was not found", n)
		}
	}
}

func TestRecordingErrorNamesOffset(t *testing.T) {
	b := record(t)
	b[len(b)-1] ^= 1
	at := len(b) - recordHead - fixedBytes - 9000
	if _, err := readAll(b); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), fmt.Sprintf("offset %d:", at)) {
		t.Errorf("got %v, want offset %d", err, at)
	}
}

func TestWriterRefusesWhatDoesNotFit(t *testing.T) {
	var b bytes.Buffer
	if _, err := NewWriter(&b, Header{Node: strings.Repeat("n", maxHeader)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("long header: %v", err)
	}
	w, err := NewWriter(&b, Header{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(&Chunk{Kind: Data, Data: make([]byte, MaxData+1)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("large chunk: %v", err)
	}
	if err := w.Write(&Chunk{Kind: Close}); err != nil {
		t.Errorf("the recording goes on: %v", err)
	}
	if n, err := readAll(b.Bytes()); n != 1 || err != io.EOF {
		t.Errorf("read %d, %v", n, err)
	}
}

func FuzzReader(f *testing.F) {
	b := record(f)
	f.Add(b)
	f.Add(b[:100])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := NewReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		for n := 0; ; n++ {
			var c Chunk
			if err := r.Next(&c); err != nil {
				break
			}
			if n > len(b)/fixedBytes || len(c.Data) > MaxData {
				t.Fatal("more chunks than bytes")
			}
			var out bytes.Buffer
			w, err := NewWriter(&out, r.Header())
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Write(&c); err != nil {
				t.Fatal(err)
			}
			again, err := NewReader(&out)
			if err != nil {
				t.Fatal(err)
			}
			var d Chunk
			if err := again.Next(&d); err != nil || !reflect.DeepEqual(c, d) {
				t.Fatalf("%+v\n%+v %v", c, d, err)
			}
		}
		if cap(r.buf) > fixedBytes+MaxData {
			t.Fatalf("holds %d bytes", cap(r.buf))
		}
	})
}
