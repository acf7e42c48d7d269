package ship

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"
)

// A segment file is a header and records, little endian:
//
//	header  magic "SPOOL\x01\r\n" | epoch u64
//	record  crc32c of the rest of the head u32 | crc32c of payload u32 | payload length u32 | count u32 | seq u64 | sealed Unix ns i64 | payload
//
// The record head has its own checksum: when only a payload is damaged, the calls lost are known
// exactly and the records after it are still readable.
const (
	segmentMagic    = "SPOOL\x01\r\n"
	segmentHead     = len(segmentMagic) + 8
	recordHead      = 4 + 4 + 4 + 4 + 8 + 8
	segmentSuffix   = ".spool"
	maxSegmentBytes = 4 << 20
)

var errRecord = errors.New("record is damaged")

type segment struct {
	path    string
	epoch   uint64
	bytes   int64
	file    *os.File
	pending int // entries without receipt
	gone    bool
}

// entry is one batch in the spool.
type entry struct {
	seg    *segment
	seq    uint64
	offset int64 // of the record
	bytes  uint32
	count  uint32
	done   bool // receipted, dropped or unreadable: nobody waits for it
	sent   bool // in flight on the current stream
}

func segmentName(epoch, firstSeq uint64) string {
	return fmt.Sprintf("%020d-%020d%s", epoch, firstSeq, segmentSuffix)
}

func createSegment(path string, epoch uint64) (*segment, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	head := binary.LittleEndian.AppendUint64([]byte(segmentMagic), epoch)
	if _, err := f.Write(head); err != nil {
		f.Close()
		os.Remove(path)
		return nil, err
	}
	return &segment{path: path, epoch: epoch, bytes: int64(len(head)), file: f}, nil
}

func appendRecord(dst []byte, seq uint64, count uint32, sealed time.Time, payload []byte) []byte {
	le := binary.LittleEndian
	var head [recordHead]byte
	le.PutUint32(head[4:], checksum(payload))
	le.PutUint32(head[8:], uint32(len(payload)))
	le.PutUint32(head[12:], count)
	le.PutUint64(head[16:], seq)
	le.PutUint64(head[24:], uint64(sealed.UnixNano()))
	le.PutUint32(head[0:], checksum(head[4:]))
	return append(append(dst, head[:]...), payload...)
}

type record struct {
	seq     uint64
	count   uint32
	sealed  time.Time
	bytes   uint32
	sum     uint32
	payload []byte
}

func parseHead(h []byte) (record, error) {
	le := binary.LittleEndian
	if le.Uint32(h) != checksum(h[4:recordHead]) {
		return record{}, errRecord
	}
	r := record{sum: le.Uint32(h[4:]), bytes: le.Uint32(h[8:]), count: le.Uint32(h[12:]), seq: le.Uint64(h[16:]),
		sealed: time.Unix(0, int64(le.Uint64(h[24:])))}
	if r.bytes > maxSegmentBytes || r.seq == 0 {
		return record{}, errRecord
	}
	return r, nil
}

// open and close let a spool of many segments hold few files open.
func (s *segment) open() (err error) {
	if s.file == nil {
		s.file, err = os.OpenFile(s.path, os.O_RDONLY, 0)
	}
	return err
}

func (s *segment) close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

// read returns the record of an entry.
func (e *entry) read() (record, error) {
	if err := e.seg.open(); err != nil {
		return record{}, err
	}
	b := make([]byte, recordHead+int(e.bytes))
	if _, err := e.seg.file.ReadAt(b, e.offset); err != nil {
		return record{}, err
	}
	r, err := parseHead(b)
	if err != nil {
		return record{}, err
	}
	r.payload = b[recordHead:]
	if r.seq != e.seq || r.bytes != e.bytes || checksum(r.payload) != r.sum {
		return record{}, errRecord
	}
	return r, nil
}

// scan is what reading a segment found.
type scan struct {
	entries      []*entry
	damagedCalls uint64 // in records whose payload is damaged
	tornBytes    uint64 // after the last readable head
}

// openSegment reads a segment that an earlier run left.
func openSegment(path string) (*segment, scan, error) {
	var found scan
	seg := &segment{path: path}
	if err := seg.open(); err != nil {
		return nil, found, err
	}
	defer seg.close()
	f := seg.file
	st, err := f.Stat()
	if err != nil {
		return nil, found, err
	}
	seg.bytes = st.Size()
	head := make([]byte, segmentHead)
	if _, err := io.ReadFull(f, head); err != nil || string(head[:len(segmentMagic)]) != segmentMagic {
		found.tornBytes = uint64(st.Size())
		return seg, found, nil
	}
	seg.epoch = binary.LittleEndian.Uint64(head[len(segmentMagic):])
	at := int64(segmentHead)
	buf := make([]byte, recordHead)
	for at < st.Size() {
		if _, err := f.ReadAt(buf[:recordHead], at); err != nil {
			break
		}
		r, err := parseHead(buf)
		if err != nil {
			break
		}
		if at+recordHead+int64(r.bytes) > st.Size() {
			found.damagedCalls += uint64(r.count)
			break
		}
		e := &entry{seg: seg, seq: r.seq, offset: at, bytes: r.bytes, count: r.count}
		if _, err := e.read(); err != nil {
			found.damagedCalls += uint64(r.count)
		} else {
			found.entries = append(found.entries, e)
		}
		at += recordHead + int64(r.bytes)
	}
	found.tornBytes = uint64(st.Size() - at)
	return seg, found, nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
