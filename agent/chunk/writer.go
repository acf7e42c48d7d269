package chunk

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Writer writes a recording. It makes one Write per record, so a file cut by a crash ends at most inside one record.
type Writer struct {
	dst io.Writer
	buf []byte
	err error
}

// NewWriter writes the header.
func NewWriter(dst io.Writer, h Header) (*Writer, error) {
	if len(h.Agent)+len(h.Node) > maxHeader-12 {
		return nil, fmt.Errorf("write recording: header: %w", ErrTooLarge)
	}
	w := &Writer{dst: dst, buf: appendHeader(nil, h)}
	if _, err := dst.Write(w.buf); err != nil {
		return nil, fmt.Errorf("write recording: %w", err)
	}
	return w, nil
}

// Write stores one chunk. A chunk that is too large is refused and leaves the recording as it was; an error of the
// destination is final.
func (w *Writer) Write(c *Chunk) error {
	if w.err != nil {
		return w.err
	}
	if len(c.Data) > MaxData {
		return fmt.Errorf("write record: %d bytes of data: %w", len(c.Data), ErrTooLarge)
	}
	w.buf = append(w.buf[:0], make([]byte, recordHead)...)
	w.buf = appendChunk(w.buf, c)
	payload := w.buf[recordHead:]
	binary.LittleEndian.PutUint32(w.buf, uint32(len(payload)))
	binary.LittleEndian.PutUint32(w.buf[4:], checksum(payload))
	if _, err := w.dst.Write(w.buf); err != nil {
		w.err = fmt.Errorf("write record: %w", err)
	}
	return w.err
}
