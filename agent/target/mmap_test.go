package target

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mmap2 makes a record as perf_event_open(2) draws it.
func mmap2(pid uint32, file mapKey, name string) []byte {
	le := binary.LittleEndian
	body := le.AppendUint32(nil, pid)
	body = le.AppendUint32(body, pid+1) // the thread
	for _, n := range []uint64{0x7f00, 0x1000, 0} {
		body = le.AppendUint64(body, n)
	}
	body = le.AppendUint32(body, uint32(file.dev>>20))
	body = le.AppendUint32(body, uint32(file.dev&0xfffff))
	body = le.AppendUint64(body, file.ino)
	body = le.AppendUint64(body, file.generation)
	body = le.AppendUint32(body, unix.PROT_EXEC)
	body = le.AppendUint32(body, 0)
	body = append(body, name...)
	body = append(body, make([]byte, 8-len(name)%8)...)
	return record(recordMmap2, body)
}

func record(kind uint32, body []byte) []byte {
	head := binary.LittleEndian.AppendUint32(nil, kind)
	head = binary.LittleEndian.AppendUint16(head, 1) // user space
	head = binary.LittleEndian.AppendUint16(head, uint16(recordHeader+len(body)))
	return append(head, body...)
}

func TestParseRecord(t *testing.T) {
	wanted := wantedNames(Libraries())
	file := mapKey{dev: 0xfe<<20 | 1, ino: 99, generation: 7}
	lost := binary.LittleEndian.AppendUint64(make([]byte, 8), 12)
	withBuildID := mmap2(5, file, "/lib/libssl.so.3")
	binary.LittleEndian.PutUint16(withBuildID[4:], miscBuildID)
	for name, tc := range map[string]struct {
		record []byte
		want   mapEvent
		lost   uint64
	}{
		"a library":               {record: mmap2(5, file, "/lib/libssl.so.3"), want: mapEvent{5, file, "/lib/libssl.so.3"}},
		"another library":         {record: mmap2(5, file, "/lib/libc.so.6")},
		"a name that begins well": {record: mmap2(5, file, "/lib/libssl-dev")},
		"asked for by Python":     {record: mmap2(5, file, "/lib/libcrypto.so.3"), want: mapEvent{5, file, "/lib/libcrypto.so.3"}},
		"one that asks":           {record: mmap2(5, file, "/x/_ssl.cpython-311-x86_64-linux-gnu.so"), want: mapEvent{5, file, "/x/_ssl.cpython-311-x86_64-linux-gnu.so"}},
		"a directory of the name": {record: mmap2(5, file, "/lib/libssl.so.3/x")},
		"no file":                 {record: mmap2(5, file, "[vdso]")},
		"anonymous":               {record: mmap2(5, file, "//anon")},
		"another namespace":       {record: mmap2(0, file, "/lib/libssl.so.3")},
		"a process that is gone":  {record: mmap2(0xffffffff, file, "/lib/libssl.so.3")},
		"by build id":             {record: withBuildID},
		"no name":                 {record: mmap2(5, file, "")[:mmap2Name]},
		"lost":                    {record: record(recordLost, lost), lost: 12},
		"lost, cut":               {record: record(recordLost, lost[:8])},
		"another kind":            {record: record(3, lost)},
		"nothing":                 {},
	} {
		got, ok, lost := parseRecord(tc.record, wanted)
		if got != tc.want || ok != (tc.want != mapEvent{}) || lost != tc.lost {
			t.Errorf("%s: %+v %v %d, want %+v %d", name, got, ok, lost, tc.want, tc.lost)
		}
	}
	onDemand := []Library{{OnDemand: true, Files: []string{"libcrypto.so*"}}}
	if _, ok, _ := parseRecord(mmap2(5, file, "/lib/libcrypto.so.3"), wantedNames(onDemand)); ok {
		t.Error("a library on demand is wanted where nothing asks for it")
	}
	if n := testing.AllocsPerRun(100, func() { parseRecord(mmap2(5, file, "/lib/libc.so.6"), wanted) }); n > 16 {
		t.Errorf("%v allocations", n)
	}
}

// ring is a ring of one page of records, without a kernel.
func ring(t *testing.T) (*mapRing, func(record []byte)) {
	t.Helper()
	r := &mapRing{page: &unix.PerfEventMmapPage{}, data: make([]byte, 4096), record: make([]byte, maxRecord)}
	return r, func(record []byte) {
		for i, c := range record {
			r.data[(r.page.Data_head+uint64(i))%uint64(len(r.data))] = c
		}
		r.page.Data_head += uint64(len(record))
	}
}

func TestRecordsWrapAround(t *testing.T) {
	r, write := ring(t)
	for i := range 1000 {
		want := mmap2(uint32(i+1), mapKey{ino: uint64(i)}, "/"+strings.Repeat("x", i%900))
		write(want)
		var got [][]byte
		r.read(func(record []byte) { got = append(got, bytes.Clone(record)) })
		if len(got) != 1 || !bytes.Equal(got[0], want) {
			t.Fatalf("record %d of %d bytes: got %d records", i, len(want), len(got))
		}
	}
	// What is no record ends the reading, not the ring.
	write(make([]byte, 16))
	write(mmap2(1, mapKey{}, "/a"))
	r.read(func([]byte) { t.Error("something was read") })
	write(mmap2(2, mapKey{}, "/b"))
	n := 0
	r.read(func([]byte) { n++ })
	if n != 1 {
		t.Errorf("%d records after the damage", n)
	}
}

func FuzzMapRing(f *testing.F) {
	f.Add(append(mmap2(5, mapKey{1, 2, 3}, "/lib/libssl.so.3"), record(recordLost, make([]byte, 16))...))
	f.Add(record(recordMmap2, nil))
	wanted := wantedNames(Libraries())
	f.Fuzz(func(t *testing.T, text []byte) {
		r, write := ring(t)
		if len(text) > len(r.data) {
			return
		}
		write(text)
		r.read(func(record []byte) {
			e, ok, _ := parseRecord(record, wanted)
			if ok && (e.pid == 0 || !wanted([]byte(path.Base(e.name)))) {
				t.Errorf("%+v", e)
			}
		})
		if r.page.Data_tail > r.page.Data_head || r.page.Data_head-r.page.Data_tail >= recordHeader {
			t.Errorf("read to %d of %d", r.page.Data_tail, r.page.Data_head)
		}
	})
}

func TestParseCPUs(t *testing.T) {
	for list, want := range map[string][]int{"0": {0}, "0-3": {0, 1, 2, 3}, "0,2-3,8": {0, 2, 3, 8}} {
		if got, err := parseCPUs(list); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v", list, got, err)
		}
	}
	for _, list := range []string{"", "x", "3-1", "0-", "0-99999", "-1"} {
		if got, err := parseCPUs(list); !errors.Is(err, ErrNoMapEvents) {
			t.Errorf("%q: %v, %v", list, got, err)
		}
	}
}

func TestNoMapEventsSaysWhatToDo(t *testing.T) {
	for errno, remedy := range map[unix.Errno]string{
		unix.EACCES: "CAP_PERFMON", unix.EPERM: "seccomp", unix.ENOSYS: "CONFIG_PERF_EVENTS", unix.EMFILE: "LimitNOFILE",
		unix.ENOMEM: "memory limit", unix.EINVAL: "restart",
	} {
		err := noMapEvents(errno)
		if !errors.Is(err, ErrNoMapEvents) || !strings.Contains(err.Error(), remedy) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v, want it to say %q", errno, err, remedy)
		}
	}
}
