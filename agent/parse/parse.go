// Package parse names what a protocol parser makes of a stream: messages, paired as exchanges.
//
// A parser belongs to one stream (one connection). It is fed both directions in the order in which they happened,
// is told of gaps, and hands out an Exchange when a request and its response are as complete as they will get:
//
//	Feed(request bytes)  ─▶ Message{Request} ─┐
//	Feed(response bytes) ─▶ Message{Status}  ─┴▶ Exchange ─▶ emit
//	Gap, Close           ─▶ what is open is emitted as Incomplete, or counted as lost; never guessed
//
// Parsers are pure: no I/O, no clock, no goroutine, bounded memory, no panic on any input.
// Messages hold values. They live in agent/parse, agent/flow and agent/call only, and die there.
package parse

import "time"

// Side tells the two directions of a stream apart by what flows in them.
type Side uint8

const (
	Requests  Side = 0 // client to server
	Responses Side = 1 // server to client
)

// Field is one header, in wire order. Name is lower case.
type Field struct {
	Name  string
	Value string
}

// Message is one request or one response. It and its strings are valid only until emit returns: what is to live longer is
// cloned.
type Message struct {
	Protocol string // "http/1.0", "http/1.1", "http/2"

	// Requests.
	Method    string
	Target    string // path and query as sent
	Authority string // Host or :authority
	Scheme    string // :scheme where the protocol carries one

	// Responses.
	Status int

	Header  []Field
	Trailer []Field

	Body      []byte        // the first bytes of the body, transfer coding removed
	BodyBytes uint64        // all bytes of the body, transfer coding removed
	Start     time.Duration // first byte, since boot
	HeadEnd   time.Duration // last byte of the head
	End       time.Duration // last byte seen

	HeadComplete   bool // every byte of the head was seen
	Complete       bool // every byte of the body was seen to pass
	BodyTruncated  bool // Body is shorter than BodyBytes: capped, or a gap inside
	UnknownHeaders int  // header fields that a late-joined HPACK decoder could not resolve; never guessed
	// Shed: a response that was left out on purpose. That it was given is known, not what it says; End and BodyBytes are of
	// what passed in its place, heads and framing included.
	Shed bool

	head []byte // what the strings are pieces of, where the parser uses Hold
}

// Exchange is a request and its response.
type Exchange struct {
	Request  *Message
	Response *Message
	Ordinal  uint64 // of the request on its connection, from 0; HTTP/2: the stream id
	LateJoin bool   // the stream was joined after its first byte
	Gap      bool   // bytes of this exchange were lost
}

// Seen reports whether both heads are complete, or the response was left out on purpose: only then is it a call.
func (e *Exchange) Seen() bool {
	return e.Request != nil && e.Response != nil && e.Request.HeadComplete && (e.Response.HeadComplete || e.Response.Shed)
}

// Parser reads one stream.
type Parser interface {
	// Feed takes the next bytes of one side. It keeps no reference to data.
	// data is one captured buffer: after a gap, parsing may begin anew where a buffer begins.
	// An error means that the stream is not (or no longer) of this protocol; it is fed no more.
	Feed(side Side, data []byte, at time.Duration) error
	// Gap says that bytes of one side passed unseen, and how many messages are known to begin in them.
	Gap(side Side, bytes uint64, heads uint32, at time.Duration)
	// Shed says that bytes of one side passed unread on purpose, and how many messages are known to begin in them, the first
	// at their front. Nothing is missed: a response among them answers its request.
	Shed(side Side, bytes uint64, heads uint32, at time.Duration)
	// Rest says that the stream has been silent for a while after a gap: what waits only for a sign that no more of it
	// comes may be handed out. It reports whether anything still waits for such a sign.
	Rest(at time.Duration) bool
	// Close says that the stream ended. Exchanges that are open are emitted or counted.
	Close(at time.Duration)
	// Counts tells what became of the messages so far.
	Counts() Counts
	// Buffered is how many bytes of the stream the parser holds.
	Buffered() int
}

// Counts is a parser's account: requests begun = Emitted + Lost + Unanswered + open.
type Counts struct {
	Emitted    uint64 // exchanges with both heads complete
	Lost       uint64 // exchanges of which a head was lost to a gap
	LostShed   uint64 // of those, whose response was left out and could not be told from others
	Unanswered uint64 // requests whose stream ended without a response
	Malformed  uint64 // messages that broke the protocol
}

// Limits bound what a parser keeps.
type Limits struct {
	Head  int // bytes of one head
	Body  int // bytes of one body that are kept for description
	Open  int // requests that wait for their response
	Names int // header fields in one head
}

// DefaultLimits are generous for APIs and small for memory.
func DefaultLimits() Limits { return Limits{Head: 64 << 10, Body: 64 << 10, Open: 128, Names: 256} }
