package owner

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
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

// TestAHundredStartsOfOneNameAreKept: the pods of a DaemonSet with one certificate, in turn, for hours.
func TestAHundredStartsOfOneNameAreKept(t *testing.T) {
	m := newWatermarks()
	for seq := uint64(1); seq <= 200; seq++ {
		at := day.Add(time.Duration(seq) * time.Minute)
		for epoch := uint64(1000); epoch < 1100; epoch++ {
			if v := m.check("fleet", epoch, seq); v != fresh {
				t.Fatalf("batch %d of epoch %d: %d", seq, epoch, v)
			}
			m.mark("fleet", epoch, seq, at)
			if v := m.check("fleet", epoch, seq); v != duplicate {
				t.Fatalf("batch %d of epoch %d again: %d", seq, epoch, v)
			}
		}
		m.forget()
	}
	if m.count != 100 || len(m.agents["fleet"]) != 100 {
		t.Errorf("%d windows", m.count)
	}
}

func TestTheLongestSilentGoesFirst(t *testing.T) {
	m := newWatermarks()
	m.mark("quiet", 1, 1, day)
	m.mark("later", 1, 1, day.Add(time.Minute))
	now := day.Add(2 * time.Hour)
	for i := range uint64(maxWindows - 1) {
		m.mark("restless", 10+i, 1, now)
	}
	if m.count != maxWindows || m.check("quiet", 1, 1) != fresh || m.check("later", 1, 1) != duplicate {
		t.Errorf("%d windows, the silent agent's: %v", m.count, m.agents["quiet"])
	}
	// All have spoken within the hour: who has most gives way, its own oldest first, and nobody else.
	m.mark("later", 1, 2, now)
	for i := range 200 {
		m.mark(fmt.Sprint("n", i), 1, 1, now.Add(time.Minute))
	}
	m.mark("restless", 5, 1, now.Add(time.Minute))
	if m.count != maxWindows || m.check("later", 1, 2) != duplicate || m.check("n0", 1, 1) != duplicate || m.check("n199", 1, 1) != duplicate ||
		m.check("restless", 10, 1) != fresh || m.check("restless", 10+maxWindows-2, 1) != duplicate || m.check("restless", 5, 1) != duplicate {
		t.Errorf("%d windows, %d of the restless agent", m.count, len(m.agents["restless"]))
	}
}

func TestSilentWindowsAreForgotten(t *testing.T) {
	m := newWatermarks()
	for e := range uint64(5) {
		m.mark("a", e, 1, day.Add(time.Duration(e)*time.Hour))
	}
	for _, c := range []struct {
		after time.Duration
		want  []uint64
	}{
		{23 * time.Hour, []uint64{0, 1, 2, 3, 4}}, {25*time.Hour + time.Minute, []uint64{2, 3, 4}}, {48 * time.Hour, []uint64{3, 4}},
		{31*24*time.Hour + 3*time.Hour, []uint64{4}}, {32 * 24 * time.Hour, nil},
	} {
		m.mark("b", 1, uint64(c.after), day.Add(c.after))
		m.forget()
		var got []uint64
		for _, w := range m.agents["a"] {
			got = append(got, w.epoch)
		}
		if !slices.Equal(got, c.want) || m.count != len(c.want)+1 {
			t.Errorf("after %s: epochs %v of %d windows, want %v", c.after, got, m.count, c.want)
		}
	}
}

// TestACommitOfManyAgentsIsSmall: meta is written at each commit of 64 partitions.
func TestACommitOfManyAgentsIsSmall(t *testing.T) {
	for _, c := range []struct {
		name   string
		agents int
		share  float64 // of an agent's batches that hold calls of this partition
		limit  int
	}{
		{"all batches", 1000, 1, 100_000}, {"most batches", 1000, 0.98, 100_000}, {"one in 64", 1000, 1. / 64, 100_000},
		{"any, the worst", 1000, 0.5, 200_000}, {"as many as there may be", maxWindows + 10, 0.5, 900_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, r := newWatermarks(), rand.New(rand.NewPCG(1, 2))
			for i := range c.agents {
				name, epoch := fmt.Sprintf("node-%05d.example", i), uint64(day.UnixNano())+r.Uint64N(1e15)
				for seq := range uint64(1500) {
					if r.Float64() < c.share {
						m.mark(name, epoch, 100_000+seq, day.Add(time.Duration(i)*time.Second))
					}
				}
			}
			n := len((&meta{offset: 1 << 40, marks: m}).encode())
			t.Logf("%d agents: %d bytes", len(m.agents), n)
			if n > c.limit || len(m.agents) != min(c.agents, maxWindows) {
				t.Errorf("%d bytes for %d agents", n, len(m.agents))
			}
		})
	}
}

func TestMetaComesBack(t *testing.T) {
	m := meta{offset: 5, partOf: 6, partCalls: 700, marks: newWatermarks()}
	for e := range uint64(3) {
		for s := range uint64(2000) {
			m.marks.mark("agent", e, s*2, day)
			m.marks.mark("other", 9, s, day.Add(time.Duration(s)))
			if s%3 > 0 && s%5 > 0 {
				m.marks.mark("mixed", e, s, day.Add(time.Hour))
			}
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
	if got.marks.count != 7 || !reflect.DeepEqual(got.marks, m.marks) {
		t.Errorf("%d windows came back as %d, or others", m.marks.count, got.marks.count)
	}
	if empty, err := decodeMeta(nil); err != nil || empty.offset != 0 || empty.marks.check("a", 1, 1) != fresh {
		t.Errorf("%+v, %v", empty, err)
	}
	newer := meta{marks: newWatermarks()}
	text := newer.encode()
	text[1] = metaVersion + 1
	if _, err := decodeMeta(text); err == nil {
		t.Error("a newer version accepted")
	}
}

// TestMetaOfTheFirstVersion has a bitmap and no times: its windows count from the first record on.
func TestMetaOfTheFirstVersion(t *testing.T) {
	win := append([]byte{0x08, 7, 0x10, 70, 0x1a, 0x80, 0x01}, make([]byte, 128)...)
	win[7+70/8] = 1 << (70 % 8)
	agent := protowire.AppendBytes([]byte{0x0a, 1, 'a', 0x10, 9, 0x1a}, win)
	m, err := decodeMeta(protowire.AppendBytes([]byte{0x08, 1, 0x10, 5, 0x2a}, agent))
	if err != nil || m.offset != 5 {
		t.Fatalf("%+v, %v", m, err)
	}
	m.marks.mark("b", 1, 1, day)
	m.marks.forget()
	if m.marks.check("a", 7, 70) != duplicate || m.marks.check("a", 7, 69) != fresh || m.marks.count != 2 {
		t.Errorf("%d windows, %+v", m.marks.count, m.marks.agents["a"])
	}
}

func FuzzMeta(f *testing.F) {
	m := meta{offset: 5, partOf: 6, partCalls: 700, marks: newWatermarks()}
	m.marks.mark("agent", 1, 70, day)
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
			m.marks.mark("agent", 1, 71, day)
		}
	})
}
