package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// madeRing is a ring in a file of memory, and the kernel's part of it. A file has no second row that shows the first, so
// it is written to both.
type madeRing struct {
	t                  testing.TB
	fd                 int
	consumer, producer *uint64
	data               []byte
	size               uint64
}

func makeRing(t testing.TB, size int) *madeRing {
	t.Helper()
	page := os.Getpagesize()
	fd, err := unix.MemfdCreate("ring", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, int64(2*page+2*size))
	}
	if err != nil {
		t.Fatal(err)
	}
	all, err := unix.Mmap(fd, 0, 2*page+2*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Munmap(all), unix.Close(fd) })
	return &madeRing{t, fd, (*uint64)(unsafe.Pointer(&all[0])), (*uint64)(unsafe.Pointer(&all[page])), all[2*page:], uint64(size)}
}

func (m *madeRing) reader() *ring {
	m.t.Helper()
	r, err := mapRing(m.fd, int(m.size))
	if err != nil {
		m.t.Fatal(err)
	}
	r.viewBytes = os.Getpagesize() // so that it moves
	m.t.Cleanup(func() { r.close() })
	return r
}

// head is the first word of a record in one of the two rows.
func (m *madeRing) head(at, row uint64) *uint32 {
	return (*uint32)(unsafe.Pointer(&m.data[at&(m.size-1)+row*m.size]))
}

// reserve does as bpf_ringbuf_reserve; commit ends it.
func (m *madeRing) reserve(record []byte) (at uint64, ok bool) {
	at = atomic.LoadUint64(m.producer)
	whole := uint64(len(record)+ringHeaderBytes+7) &^ 7
	if at+whole-atomic.LoadUint64(m.consumer) > m.size {
		return 0, false
	}
	for row := range uint64(2) {
		atomic.StoreUint32(m.head(at, row), uint32(len(record))|ringBusy)
	}
	atomic.StoreUint64(m.producer, at+whole)
	for i, b := range record {
		where := (at + ringHeaderBytes + uint64(i)) & (m.size - 1)
		m.data[where], m.data[where+m.size] = b, b
	}
	return at, true
}

func (m *madeRing) commit(at uint64, flags uint32) {
	for row := range uint64(2) {
		atomic.StoreUint32(m.head(at, row), atomic.LoadUint32(m.head(at, row))&^ringBusy|flags)
	}
}

func TestRingGoesOverTheEnd(t *testing.T) {
	page := os.Getpagesize()
	m := makeRing(t, 4*page)
	r := m.reader()
	random := rand.New(rand.NewPCG(1, 2))
	pieces := 0
	for i := range 2000 {
		want := bytes.Repeat([]byte{byte(i)}, random.IntN(2*page))
		at, ok := m.reserve(want)
		if !ok {
			t.Fatalf("record %d: no room although all was read", i)
		}
		if _, err := r.next(); err != errRingBusy {
			t.Fatalf("record %d before it is committed: %v", i, err)
		}
		dropped := random.IntN(5) == 0
		if dropped {
			m.commit(at, ringDiscard)
			if _, err := r.next(); err != errRingEmpty {
				t.Fatalf("discarded record %d: %v", i, err)
			}
			continue
		}
		m.commit(at, 0)
		got, err := r.next()
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("record %d: %d bytes, %v; want %d", i, len(got), err, len(want))
		}
		if len(want) > 0 && (at+ringHeaderBytes)&(m.size-1)+uint64(len(want)) > m.size {
			pieces++
		}
		if *m.consumer != at {
			t.Fatalf("record %d was given back while it is read", i)
		}
		if _, err := r.next(); err != errRingEmpty || *m.consumer != *m.producer {
			t.Fatalf("after record %d: %v, consumer at %d of %d", i, err, *m.consumer, *m.producer)
		}
	}
	if pieces < 100 {
		t.Errorf("only %d records went over the end", pieces)
	}
}

// What the pages say is believed only as far as it fits: no panic, nothing outside of the ring, and an end.
func TestRingGarbled(t *testing.T) {
	for _, c := range []struct {
		name               string
		consumer, producer uint64
		head               uint32
	}{
		{"producer behind", 64, 0, 8},
		{"producer far ahead", 0, 1 << 40, 8},
		{"producer at the end of numbers", 0, ^uint64(0), 8},
		{"consumer odd", 3, 64, 8},
		{"producer odd", 0, 67, 8},
		{"less than a header", 0, 7, 8},
		{"length beyond what waits", 0, 16, 9},
		{"length beyond the ring", 0, 4096, 1<<30 - 1},
		{"discarded beyond what waits", 0, 64, 1<<30 - 1 | ringDiscard},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := makeRing(t, os.Getpagesize())
			*m.consumer, *m.producer = c.consumer, c.producer
			for at := uint64(0); at < m.size; at += 8 {
				*m.head(at, 0), *m.head(at, 1) = c.head, c.head
			}
			r := m.reader()
			malformed := 0
			for range 100 {
				_, err := r.next()
				if errors.Is(err, ErrMalformed) {
					malformed++
				}
				if err == errRingEmpty {
					if malformed > 1 {
						t.Errorf("told %d times", malformed)
					}
					return
				}
			}
			t.Error("it does not end")
		})
	}
}

func FuzzRing(f *testing.F) {
	m := makeRing(f, os.Getpagesize())
	f.Add(uint64(0), uint64(40), []byte{8, 0, 0, 0})
	f.Add(uint64(4088), uint64(8192), []byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, consumer, producer uint64, data []byte) {
		*m.consumer, *m.producer = consumer, producer
		clear(m.data)
		copy(m.data, data)
		copy(m.data[m.size:], data)
		r, err := mapRing(m.fd, int(m.size))
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		for range m.size/8 + 2 {
			raw, err := r.next()
			if uint64(len(raw)) > m.size {
				t.Fatalf("%d bytes of a ring of %d", len(raw), m.size)
			}
			if err == errRingEmpty || err == errRingBusy {
				return
			}
		}
		t.Fatal("more records than fit")
	})
}

// One side writes while the other reads.
func TestRingTogether(t *testing.T) {
	const records = 20000
	m := makeRing(t, 4*os.Getpagesize())
	go func() {
		random := rand.New(rand.NewPCG(3, 4))
		record := make([]byte, 600)
		for i := uint64(0); i < records; {
			record := record[:8+random.IntN(592)]
			binary.LittleEndian.PutUint64(record, i)
			for j := range record[8:] {
				record[8+j] = byte(i)
			}
			if at, ok := m.reserve(record); ok {
				m.commit(at, 0)
				i++
			} else {
				time.Sleep(time.Microsecond)
			}
		}
	}()
	r := m.reader()
	deadline := time.Now().Add(20 * time.Second)
	for i := uint64(0); i < records; {
		raw, err := r.next()
		if err != nil {
			if err != errRingEmpty && err != errRingBusy || time.Now().After(deadline) {
				t.Fatalf("record %d: %v", i, err)
			}
			time.Sleep(time.Microsecond)
			continue
		}
		if got := binary.LittleEndian.Uint64(raw); got != i || bytes.Count(raw[8:], []byte{byte(i)}) != len(raw)-8 {
			t.Fatalf("record %d: number %d, %d bytes", i, got, len(raw))
		}
		i++
	}
}

// writer puts records of chosen lengths into a kernel's ring.
type writer struct {
	ring, source, length *ebpf.Map
	put                  *ebpf.Program
}

func newWriter(t testing.TB, ringBytes int) *writer {
	t.Helper()
	requireKernel(t)
	w := &writer{}
	for _, m := range []struct {
		into **ebpf.Map
		spec ebpf.MapSpec
	}{
		{&w.ring, ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: uint32(ringBytes)}},
		{&w.source, ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 1 << 15, MaxEntries: 1}},
		{&w.length, ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}},
	} {
		made, err := ebpf.NewMap(&m.spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { made.Close() })
		*m.into = made
	}
	value := func(m *ebpf.Map) asm.Instructions {
		return asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, m.FD()), asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "end"),
		}
	}
	body := append(value(w.length), asm.LoadMem(asm.R6, asm.R0, 0, asm.DWord), asm.And.Imm(asm.R6, 1<<15-1))
	body = append(body, value(w.source)...)
	body = append(body,
		asm.Mov.Reg(asm.R2, asm.R0), asm.LoadMapPtr(asm.R1, w.ring.FD()), asm.Mov.Reg(asm.R3, asm.R6), asm.Mov.Imm(asm.R4, 1), // BPF_RB_NO_WAKEUP
		asm.FnRingbufOutput.Call(), asm.Mov.Imm(asm.R0, 0).WithSymbol("end"), asm.Return())
	put, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: body})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { put.Close() })
	w.put = put
	return w
}

// write puts the same record so many times.
func (w *writer) write(t testing.TB, record []byte, times int) {
	t.Helper()
	source := make([]byte, 1<<15)
	copy(source, record)
	if err := errors.Join(w.source.Put(uint32(0), source), w.length.Put(uint32(0), uint64(len(record)))); err != nil {
		t.Fatal(err)
	}
	if _, err := w.put.Run(&ebpf.RunOptions{Data: make([]byte, 14), Repeat: uint32(times)}); err != nil {
		t.Fatal(err)
	}
}

// The same records of one kernel's ring, read here without giving them back and then by cilium/ebpf's reader.
func TestRingAgreesWithCilium(t *testing.T) {
	w := newWriter(t, 1<<16)
	theirs, err := ringbuf.NewReader(w.ring)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	theirs.SetDeadline(time.Unix(1, 0))
	ours, err := openRing(w.ring)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.close()
	var unseen uint64
	ours.consumer, ours.viewBytes = &unseen, 8<<10
	random := rand.New(rand.NewPCG(5, 6))
	total := 0
	for round := range 60 {
		for range 8 {
			record := make([]byte, 1+random.IntN(6000))
			for i := range record {
				record[i] = byte(random.Uint32())
			}
			w.write(t, record, 1)
		}
		for {
			a, errA := ours.next()
			b, errB := theirs.Read()
			if (errA == errRingEmpty) != errors.Is(errB, os.ErrDeadlineExceeded) {
				t.Fatalf("round %d: %v here, %v there", round, errA, errB)
			}
			if errA == errRingEmpty {
				break
			}
			if errA != nil || errB != nil || !bytes.Equal(a, b.RawSample) {
				t.Fatalf("round %d: %d bytes and %v here, %d and %v there", round, len(a), errA, len(b.RawSample), errB)
			}
			total += len(a)
		}
	}
	if total < 8<<16 {
		t.Errorf("only %d bytes, the ring was not gone around", total)
	}
}

func BenchmarkRing(b *testing.B) {
	const burst = 400
	for _, bytes := range []int{152 + 256, 152 + 16384} {
		w := newWriter(b, 1<<23)
		ours, err := openRing(w.ring)
		if err != nil {
			b.Fatal(err)
		}
		defer ours.close()
		theirs, err := ringbuf.NewReader(w.ring)
		if err != nil {
			b.Fatal(err)
		}
		defer theirs.Close()
		theirs.SetDeadline(time.Unix(1, 0))
		var record ringbuf.Record
		for _, side := range []struct {
			name string
			next func() error
		}{
			{"once", func() error { _, err := ours.next(); return err }},
			{"cilium", func() error { return theirs.ReadInto(&record) }},
		} {
			b.Run(fmt.Sprintf("%d/%s", bytes, side.name), func(b *testing.B) {
				ours.at = atomic.LoadUint64(ours.consumer)
				var took time.Duration
				for b.Loop() {
					w.write(b, make([]byte, bytes), burst)
					begin := time.Now()
					for range burst {
						if err := side.next(); err != nil {
							b.Fatal(err)
						}
					}
					took += time.Since(begin)
					ours.release()
				}
				b.ReportMetric(float64(took.Nanoseconds())/float64(b.N*burst), "ns/record")
			})
		}
	}
}
