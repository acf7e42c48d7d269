package call

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
)

// Bounds of what a compressed body may become.
const (
	maxInflated  = 256 << 10
	maxExpansion = 100
)

// inflater undoes content codings into memory that it keeps.
type inflater struct {
	gzip *gzip.Reader
	in   bytes.Reader
	out  []byte
}

// inflate returns the decoded body, as far as the input and the bounds go, and whether that is all of it; nil for a
// coding that it does not know or a body that is not of the coding it names.
func (z *inflater) inflate(coding string, body []byte) ([]byte, bool) {
	z.in.Reset(body)
	var r io.Reader
	switch coding {
	case "gzip", "x-gzip":
		if z.gzip == nil {
			z.gzip = new(gzip.Reader)
		}
		if err := z.gzip.Reset(&z.in); err != nil {
			return nil, false
		}
		r = z.gzip
	case "deflate": // zlib by RFC 9110; raw by habit of some servers
		zr, err := zlib.NewReader(&z.in)
		if err != nil {
			z.in.Reset(body)
			r = flate.NewReader(&z.in)
		} else {
			r = zr
		}
	default:
		return nil, false
	}
	limit := min(maxInflated, max(len(body)*maxExpansion, 4096))
	if cap(z.out) < limit {
		z.out = make([]byte, limit)
	}
	n, err := io.ReadFull(r, z.out[:limit])
	if n == 0 {
		return nil, false
	}
	return z.out[:n], errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && z.in.Len() == 0 && ended(r)
}

// ended tells the end of the coded body from the end of its captured part: ReadFull reports both in the same way, the
// next read does not.
func ended(r io.Reader) bool {
	var b [1]byte
	_, err := r.Read(b[:])
	return errors.Is(err, io.EOF)
}
