package owner

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestAWindowRemembersTheLast1024(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		var w window
		seen, high := map[uint64]bool{}, uint64(0)
		for range 3000 {
			seq := 1 + high + uint64(r.IntN(40)) - min(high, uint64(r.IntN(1200)))
			if r.IntN(300) == 0 {
				seq += uint64(r.IntN(3000))
			}
			want := fresh
			if seen[seq] {
				want = duplicate
			}
			if seq+windowBatches <= high {
				want = late
			}
			if got := w.check(seq); got != want {
				t.Fatalf("batch %d at %d: %d, want %d", seq, high, got, want)
			}
			if want == fresh {
				w.mark(seq)
				seen[seq] = true
				high = max(high, seq)
			}
		}
	}
}

func TestEpochsAndAgentsAreBounded(t *testing.T) {
	m := newWatermarks()
	for e := uint64(1); e <= 10; e++ {
		if v := m.check("a", e*10, 1); v != fresh {
			t.Fatalf("epoch %d: %d", e*10, v)
		}
		m.mark("a", e*10, 1)
	}
	for _, c := range []struct {
		epoch uint64
		want  verdict
	}{{10, late}, {20, late}, {25, late}, {30, duplicate}, {35, fresh}, {100, duplicate}, {110, fresh}} {
		if v := m.check("a", c.epoch, 1); v != c.want {
			t.Errorf("epoch %d: %d, want %d", c.epoch, v, c.want)
		}
	}
	for i := range maxAgents + 10 {
		m.mark(fmt.Sprint("n", i), 1, 1)
		m.mark("a", 100, uint64(i+2))
	}
	if len(m.agents) != maxAgents || m.check("a", 100, 1) == fresh || m.check("n0", 1, 1) != fresh || m.check("n100", 1, 1) != duplicate {
		t.Errorf("%d agents", len(m.agents))
	}
	if n := len((&meta{marks: m}).encode()); n > 1<<20 {
		t.Errorf("%d bytes for %d agents", n, len(m.agents))
	}
}

func TestMetaComesBack(t *testing.T) {
	m := meta{offset: 5, partOf: 6, partCalls: 700, marks: newWatermarks()}
	for e := range uint64(3) {
		for s := range uint64(2000) {
			m.marks.mark("agent", e, s*2)
			m.marks.mark("other", 9, s)
		}
	}
	b := m.encode()
	got, err := decodeMeta(b)
	if err != nil || got.offset != 5 || got.partOf != 6 || got.partCalls != 700 || !bytes.Equal(got.encode(), b) {
		t.Fatalf("%+v, %v", got, err)
	}
	if got.marks.check("agent", 2, 3998) != duplicate || got.marks.check("agent", 2, 3997) != fresh || got.marks.check("agent", 2, 100) != late {
		t.Error("watermarks differ")
	}
	if empty, err := decodeMeta(nil); err != nil || empty.offset != 0 || empty.marks.check("a", 1, 1) != fresh {
		t.Errorf("%+v, %v", empty, err)
	}
	newer := meta{marks: newWatermarks()}
	text := newer.encode()
	text[1] = 2
	if _, err := decodeMeta(text); err == nil {
		t.Error("version 2 accepted")
	}
}

func FuzzMeta(f *testing.F) {
	m := meta{offset: 5, partOf: 6, partCalls: 700, marks: newWatermarks()}
	m.marks.mark("agent", 1, 70)
	f.Add(m.encode())
	f.Add([]byte{0x2a, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		again, err := decodeMeta(m.encode())
		if err != nil || !bytes.Equal(again.encode(), m.encode()) {
			t.Errorf("%x does not come back: %v", b, err)
		}
		if m.marks.check("agent", 1, 71) == fresh {
			m.marks.mark("agent", 1, 71)
		}
	})
}
