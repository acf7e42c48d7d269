package target

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapEvent is a file that a process has just mapped executable, as the kernel tells it.
type mapEvent struct {
	pid  uint32
	file mapKey
	name string
}

// mapKey names a file to the kernel's perf events. The generation tells an inode from one that had its number before.
// On overlayfs some kernels name the layer's inode here and the overlay's in /proc/PID/maps.
type mapKey struct{ dev, ino, generation uint64 }

// ErrNoMapEvents says that the kernel does not tell which files are mapped.
var ErrNoMapEvents = errors.New("mapping events are not to be had")

const (
	ringBytes = 64 << 10 // of records, per processor: about 500 mappings
	// A record ends in a path, which the kernel cuts at PATH_MAX.
	maxRecord = 8 << 10
)

// mapRing is the ring that one processor writes its mapping events to (perf_event_open(2)).
type mapRing struct {
	fd     int
	pages  []byte
	page   *unix.PerfEventMmapPage
	data   []byte
	record []byte
}

// openMapRing asks one processor for the executable mappings of every process. The event is a software event that
// never counts anything: what is wanted are the records that come along with it.
func openMapRing(cpu int) (*mapRing, error) {
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type:   unix.PERF_TYPE_SOFTWARE,
		Config: unix.PERF_COUNT_SW_DUMMY,
		Size:   uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Bits: unix.PerfBitMmap | unix.PerfBitMmap2 | unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv |
			unix.PerfBitWatermark,
		Wakeup: 1, // byte: with every record
	}, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	pages, err := unix.Mmap(fd, 0, os.Getpagesize()+ringBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("map its ring: %w", err)
	}
	return &mapRing{
		fd: fd, pages: pages, page: (*unix.PerfEventMmapPage)(unsafe.Pointer(unsafe.SliceData(pages))),
		data: pages[os.Getpagesize():], record: make([]byte, maxRecord),
	}, nil
}

func (r *mapRing) close() {
	unix.Munmap(r.pages)
	unix.Close(r.fd)
}

// read takes what the ring holds now. The kernel writes on while it runs; what comes later is for the next call.
func (r *mapRing) read(take func(record []byte)) {
	head, tail := atomic.LoadUint64(&r.page.Data_head), r.page.Data_tail
	for head-tail >= recordHeader {
		var start [recordHeader]byte
		r.copy(start[:], tail)
		size := uint64(binary.LittleEndian.Uint16(start[6:]))
		if size < recordHeader || size > head-tail {
			tail = head // no record of the kernel looks like this
			break
		}
		if size <= maxRecord {
			r.copy(r.record[:size], tail)
			take(r.record[:size])
		}
		tail += size
	}
	atomic.StoreUint64(&r.page.Data_tail, tail)
}

func (r *mapRing) copy(to []byte, at uint64) {
	at %= uint64(len(r.data))
	n := copy(to, r.data[at:])
	copy(to[n:], r.data)
}

const (
	recordHeader = 8 // u32 type, u16 misc, u16 size
	recordLost   = 2
	recordMmap2  = 10
	mmap2Name    = 72 // where the path begins
	// miscBuildID says that the record names a build id in place of an inode. It is not asked for.
	miscBuildID = 1 << 14
)

// parseRecord reads one record. lost is how many the kernel could not write; a mapping of which the name is not
// wanted is dropped here, before anything of it is kept.
func parseRecord(record []byte, wanted func(base []byte) bool) (e mapEvent, ok bool, lost uint64) {
	le := binary.LittleEndian
	if len(record) < recordHeader {
		return mapEvent{}, false, 0
	}
	kind, misc := le.Uint32(record), le.Uint16(record[4:])
	if kind == recordLost && len(record) >= 24 {
		return mapEvent{}, false, le.Uint64(record[16:])
	}
	if kind != recordMmap2 || misc&miscBuildID != 0 || len(record) <= mmap2Name {
		return mapEvent{}, false, 0
	}
	name, _, _ := bytes.Cut(record[mmap2Name:], []byte{0})
	slash := bytes.LastIndexByte(name, '/')
	if slash < 0 || !wanted(name[slash+1:]) {
		return mapEvent{}, false, 0
	}
	// In a process id namespace that does not show it, a process has the number 0 or -1.
	pid := int32(le.Uint32(record[8:]))
	if pid <= 0 {
		return mapEvent{}, false, 0
	}
	major, minor := uint64(le.Uint32(record[40:])), uint64(le.Uint32(record[44:]))
	return mapEvent{
		pid:  uint32(pid),
		file: mapKey{dev: major<<20 | minor, ino: le.Uint64(record[48:]), generation: le.Uint64(record[56:])},
		name: string(name),
	}, true, 0
}

// wantedNames tells the names of files that the table of libraries asks for, at a cost that every mapping of every
// process of the host can bear.
func wantedNames(libraries []Library) func(base []byte) bool {
	var starts [][]byte
	for _, lib := range libraries {
		if lib.OnDemand && lib.Beside == nil {
			continue
		}
		for _, pattern := range append(slices.Clone(lib.Files), lib.Beside...) {
			start, _, _ := strings.Cut(pattern, "*")
			starts = append(starts, []byte(start))
		}
	}
	return func(base []byte) bool {
		for _, start := range starts {
			if !bytes.HasPrefix(base, start) {
				continue
			}
			for _, lib := range libraries {
				if lib.matches(string(base)) || lib.Beside != nil && (lib.named(string(base)) || lib.besides(string(base))) {
					return true
				}
			}
		}
		return false
	}
}

// onlineCPUs reads which processors run: "0-3,8".
func onlineCPUs() ([]int, error) {
	text, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, fmt.Errorf("%w: /sys does not say which processors run; mount sysfs", ErrNoMapEvents)
	}
	return parseCPUs(strings.TrimSpace(string(text)))
}

func parseCPUs(list string) ([]int, error) {
	const most = 1 << 16
	var cpus []int
	for span := range strings.SplitSeq(list, ",") {
		first, last, ok := strings.Cut(span, "-")
		if !ok {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		if errors.Join(err1, err2) != nil || b < a || len(cpus)+int(b-a) >= most {
			return nil, fmt.Errorf("%w: the list of processors %.40q is malformed", ErrNoMapEvents, list)
		}
		for ; a <= b; a++ {
			cpus = append(cpus, int(a))
		}
	}
	return cpus, nil
}
