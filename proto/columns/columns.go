// Package columns turns calls into the payload of a batch and back.
//
// A payload holds up to MaxCalls calls as v1.Columns: one array per field of v1.Call, with strings,
// keyed hashes and repeated messages (peers, TLS facts, contents, ...) in dictionaries that live and
// die with the batch. It is self-contained: any collector can read any payload, and the journal
// stores it as it came.
//
//	[]*v1.Call ──Check──▶ dictionaries + indexes (v1.Columns) ──zstd──▶ payload
//	[]*v1.Call ◀─checked indexes── v1.Columns ◀─at most MaxBytes─zstd── payload
//
// The payload is four zstd frames, each a partial v1.Columns (protobuf messages merge when
// concatenated): text, indexes, wide numbers, and random bytes (ids, hashes). Entropy tables are per
// frame, so that random bytes do not flatten the codes of the rest.
//
// Nothing is lost in between: Decode(Encode(calls)) equals calls field by field. What the columns
// cannot hold (no time, an id that is not 16 bytes of hex, invalid UTF-8) is refused by Check and
// never altered. Decode trusts nothing: sizes, counts and indexes are checked before use, and what a
// small payload may expand to is bounded.
//
// An Encoder and a Decoder keep buffers between batches; each belongs to one goroutine at a time.
package columns

import (
	"errors"
	"fmt"
)

const (
	// MaxCalls bounds the calls of one payload.
	MaxCalls = 10_000
	// MaxBytes bounds a payload after decompression.
	MaxBytes = 16 << 20
	// maxExpandedBytes bounds what dictionary entries add up to when each call gets its own.
	maxExpandedBytes = 64 << 20

	version   = 1
	idBytes   = 16
	hashBytes = 12
)

var (
	// ErrMalformed says that a payload is not what Encode makes.
	ErrMalformed = errors.New("malformed columns")
	// ErrVersion says that a payload comes from a newer encoder.
	ErrVersion = errors.New("unknown columns version")
	// ErrTooLarge says that a batch exceeds MaxCalls or MaxBytes.
	ErrTooLarge = errors.New("batch too large")
)

// CallError names the call that made Encode refuse a batch.
type CallError struct {
	Index int
	Err   error
}

func (e *CallError) Error() string { return fmt.Sprintf("encode call %d: %v", e.Index, e.Err) }

func (e *CallError) Unwrap() error { return e.Err }

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}
