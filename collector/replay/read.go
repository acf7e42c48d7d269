package replay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spile/spile/proto/line"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// MaxLineBytes bounds one line.
const MaxLineBytes = 1 << 20

// ErrInput is what every refusal of a line wraps.
var ErrInput = errors.New("bad input")

// Input is one source of Call JSON lines. Name stands in errors.
type Input struct {
	Name   string
	Reader io.Reader
}

// read appends the calls of one input.
func (p *Pipeline) read(ctx context.Context, calls []*v1.Call, ordinal int, in Input) ([]*v1.Call, error) {
	s := bufio.NewScanner(in.Reader)
	// The scanner's limit counts the newline's room too.
	s.Buffer(make([]byte, 64<<10), MaxLineBytes+2)
	number := 0
	for s.Scan() {
		if err := checkEvery(ctx, number); err != nil {
			return nil, err
		}
		number++
		text := s.Bytes()
		if number == 1 {
			text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
		}
		if len(text) > MaxLineBytes {
			return nil, tooLong(in.Name, number)
		}
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		if len(calls) == p.MaxCalls {
			return nil, fmt.Errorf("read %s line %d: %w: more than %d calls; split the input", in.Name, number, ErrInput, p.MaxCalls)
		}
		call := &v1.Call{}
		if err := line.Unmarshal(text, call); err != nil {
			return nil, fmt.Errorf("read %s line %d: %w: %w", in.Name, number, ErrInput, err)
		}
		if missing := lacks(call); missing != "" {
			return nil, fmt.Errorf("read %s line %d: %w: the call has no %s", in.Name, number, ErrInput, missing)
		}
		if call.Service == "" {
			call.Service = p.Service(call)
		}
		if call.Id == "" {
			call.Id = placeID(ordinal, number)
		}
		calls = append(calls, call)
	}
	if err := s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, tooLong(in.Name, number+1)
	} else if err != nil {
		return nil, fmt.Errorf("read %s after line %d: %w", in.Name, number, err)
	}
	return calls, nil
}

func tooLong(name string, number int) error {
	return fmt.Errorf("read %s line %d: %w: longer than %d bytes", name, number, ErrInput, MaxLineBytes)
}

// lacks names the first field that a call cannot be replayed without.
func lacks(c *v1.Call) string {
	switch {
	case c.Time == nil:
		return "time"
	case !c.Time.IsValid():
		return "valid time"
	case c.Method == "":
		return "method"
	case c.Path == "":
		return "path"
	case c.StatusCode == 0 && !slices.Contains(c.Coverage, "response_shed"):
		return "status_code"
	case !possible(c.GetSource()) || !possible(c.GetDestination()):
		return "coverage from 0 to 1 at both ends"
	}
	return ""
}

// possible says whether a peer's coverage, where there is one, is a share.
func possible(p *v1.Peer) bool {
	return p == nil || p.Coverage == nil || *p.Coverage >= 0 && *p.Coverage <= 1
}

// placeID is the id of a call that came without: evidence has to name it.
func placeID(ordinal, number int) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(ordinal))
	binary.BigEndian.PutUint64(b[8:], uint64(number))
	sum := sha256.Sum256(b[:])
	return hex.EncodeToString(sum[:16])
}
