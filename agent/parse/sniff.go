package parse

import "errors"

// Verdict is what the first bytes of a buffer say about a protocol.
type Verdict uint8

const (
	No    Verdict = iota // these bytes cannot begin a message of the protocol
	Maybe                // too few bytes to tell
	Yes                  // they do
)

// ErrSwitched says that the stream now speaks another protocol (CONNECT, 101): all exchanges are accounted for, and
// what follows belongs to nobody here. It is an orderly end, not damage.
var ErrSwitched = errors.New("stream switched to another protocol")

// Prefix compares data with what a protocol begins with.
func Prefix(data []byte, want string) Verdict {
	n := min(len(data), len(want))
	if string(data[:n]) != want[:n] {
		return No
	}
	if n < len(want) {
		return Maybe
	}
	return Yes
}
