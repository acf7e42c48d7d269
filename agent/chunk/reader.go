package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Reader reads a recording. It holds one record at a time.
type Reader struct {
	src    io.Reader
	buf    []byte
	offset int64 // of the next unread byte
	header Header
	err    error
}

// NewReader reads the header of a recording.
func NewReader(src io.Reader) (*Reader, error) {
	r := &Reader{src: src, buf: make([]byte, prefaceBytes, 4096)}
	if n, err := io.ReadFull(src, r.buf); err != nil {
		return nil, fmt.Errorf("read recording: %w", orShort(ErrNotRecording, err, n))
	}
	if string(r.buf[:len(magic)]) != magic {
		return nil, fmt.Errorf("read recording: %w", ErrNotRecording)
	}
	if v := binary.LittleEndian.Uint16(r.buf[len(magic):]); v != version {
		return nil, fmt.Errorf("read recording: %w: %d, this agent reads %d", ErrVersion, v, version)
	}
	n := int(binary.LittleEndian.Uint16(r.buf[len(magic)+2:]))
	if n > maxHeader {
		return nil, fmt.Errorf("read recording: header of %d bytes: %w", n, ErrCorrupt)
	}
	all := append(r.buf, make([]byte, n+4)...)
	if _, err := io.ReadFull(src, all[prefaceBytes:]); err != nil {
		return nil, fmt.Errorf("read recording: header ends early: %w", short(err))
	}
	sum := binary.LittleEndian.Uint32(all[prefaceBytes+n:])
	header, ok := parseHeader(all[prefaceBytes : prefaceBytes+n])
	if !ok || checksum(all[:prefaceBytes+n]) != sum {
		return nil, fmt.Errorf("read recording: header: %w", ErrCorrupt)
	}
	r.header, r.offset = header, int64(len(all))
	return r, nil
}

// Header says where the recording was made.
func (r *Reader) Header() Header { return r.header }

// Next reads one chunk into c; c.Data is valid until the next call. It returns io.EOF after the last record, and an
// error that names the offset where the file is damaged or ends early. An error is final.
func (r *Reader) Next(c *Chunk) error {
	if r.err == nil {
		r.err = r.next(c)
	}
	return r.err
}

func (r *Reader) next(c *Chunk) error {
	var head [recordHead]byte
	if n, err := io.ReadFull(r.src, head[:]); err != nil {
		if n == 0 && errors.Is(err, io.EOF) {
			return io.EOF
		}
		return fmt.Errorf("read record at offset %d: %w", r.offset, short(err))
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size < fixedBytes || size > fixedBytes+MaxData {
		return fmt.Errorf("read record at offset %d: length %d: %w", r.offset, size, ErrCorrupt)
	}
	if cap(r.buf) < int(size) {
		r.buf = make([]byte, size)
	}
	r.buf = r.buf[:size]
	if _, err := io.ReadFull(r.src, r.buf); err != nil {
		return fmt.Errorf("read record at offset %d: %w", r.offset, short(err))
	}
	if checksum(r.buf) != binary.LittleEndian.Uint32(head[4:]) {
		return fmt.Errorf("read record at offset %d: checksum: %w", r.offset, ErrCorrupt)
	}
	if !parseChunk(r.buf, c) {
		return fmt.Errorf("read record at offset %d: fields: %w", r.offset, ErrCorrupt)
	}
	r.offset += recordHead + int64(size)
	return nil
}

// short turns an end of file inside a record into what it is.
func short(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// orShort prefers "not a recording" to "short file" for files that end inside the first bytes.
func orShort(sentinel, err error, n int) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: only %d bytes", sentinel, n)
	}
	return err
}
