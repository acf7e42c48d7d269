package http2

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/spile/spile/agent/parse/parsetest"
)

func FuzzParser(f *testing.F) {
	for _, script := range talks() {
		d := newDialog(nil)
		script(d)
		f.Add(parsetest.Encode(d.talk))
	}
	l := small()
	bound := (l.Open*openFactor+1)*2*(l.Head+l.Head+l.Body+l.Names*entryCost) + 2*(initialFrame+l.Head+keptTable)
	f.Fuzz(func(t *testing.T, b []byte) {
		begun := time.Now()
		if err := parsetest.Torture(parsetest.Script(b), maker, bound); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begun); d > 5*time.Second {
			t.Fatalf("%d bytes took %v", len(b), d)
		}
	})
}

type pair struct{ name, value string }

// blocks cuts fuzzed bytes into header blocks of one connection.
func blocks(b []byte) [][]byte {
	var out [][]byte
	for len(b) > 0 {
		n := min(int(b[0]), len(b)-1)
		out = append(out, b[1:1+n])
		b = b[1+n:]
	}
	return out
}

// On a fresh connection the decoder must say what x/net's says.
func FuzzHPACK(f *testing.F) {
	d := newDialog(nil)
	var seed []byte
	for i := range 4 {
		b := d.ends[0].fields(":method=GET", ":path=/x", "x-key=value", "cookie=a", "x-n="+string(rune('a'+i)))
		seed = append(append(seed, byte(len(b))), b...)
	}
	f.Add(seed)
	f.Add([]byte{4, 0x3f, 0xe1, 0x1f, 0x82, 2, 0x20, 0x82})
	f.Add([]byte{3, 0x40, 1, 'a', 5, 0xbe, 0xbf, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		mine, late := newDecoder(false), newDecoder(true)
		theirs := hpack.NewDecoder(initialTable, nil)
		for i, block := range blocks(b) {
			var got, want []pair
			err := mine.decode(block, func(name, value string, known bool) {
				if !known {
					t.Fatal("unknown on a fresh connection")
				}
				got = append(got, pair{name, value})
			})
			fields, errTheirs := theirs.DecodeFull(block)
			for _, h := range fields {
				want = append(want, pair{h.Name, h.Value})
			}
			// x/net judges a size update by the state of its table; RFC 7541 §4.2 by its place in the block.
			if mine.updates > 0 && (err != nil) != (errTheirs != nil) {
				return
			}
			if (err != nil) != (errTheirs != nil) {
				t.Fatalf("block %d %x: %v, x/net %v", i, block, err, errTheirs)
			}
			if err != nil {
				return
			}
			if !slices.Equal(got, want) {
				t.Fatalf("block %d %x:\n%v\n%v", i, block, got, want)
			}
			if mine.size > initialTable {
				t.Fatalf("table of %d bytes", mine.size)
			}
			// A decoder that joined after the first block says the same, or unknown. Never another value.
			if i == 0 {
				continue
			}
			n := 0
			errLate := late.decode(block, func(name, value string, known bool) {
				if known && n < len(want) && (pair{name, value}) != want[n] {
					t.Fatalf("late %q=%q, want %v", name, value, want[n])
				}
				n++
			})
			if errLate != nil || n != len(want) {
				t.Fatalf("late: %v, %d of %d fields", errLate, n, len(want))
			}
		}
	})
}
