package parse

import "unsafe"

const (
	pooled     = 4
	pooledBody = 4096 // and as much of a head
)

// Hold copies a head into the message's own memory. The parser may change the copy until it takes the text of it.
func (m *Message) Hold(head []byte) []byte {
	m.head = append(m.head[:0], head...)
	return m.head
}

// Text is what Hold holds, as a string that is valid as long as the message: Put takes its letters away. A head was the
// larger half of what a call left to the collector of garbage.
func (m *Message) Text() string { return unsafe.String(unsafe.SliceData(m.head), len(m.head)) }

// Pool keeps a few messages of one connection for reuse, so that a keep-alive connection allocates next to nothing.
type Pool struct{ free []*Message }

// Get returns an empty message.
func (p *Pool) Get() *Message {
	n := len(p.free)
	if n == 0 {
		return &Message{}
	}
	m := p.free[n-1]
	p.free = p.free[:n-1]
	return m
}

// Put takes back a message that nobody holds, nor a piece of its text: whoever does would read zeros, and never another
// message. A large body or head is not kept.
func (p *Pool) Put(m *Message) {
	if m == nil {
		return
	}
	header, trailer, body, head := m.Header, m.Trailer, m.Body, m.head
	clear(header)
	clear(trailer)
	clear(head)
	*m = Message{}
	if len(p.free) >= pooled {
		return
	}
	if cap(body) <= pooledBody {
		m.Body = body[:0]
	}
	if cap(head) <= pooledBody {
		m.head = head[:0]
	}
	m.Header, m.Trailer = header[:0], trailer[:0]
	p.free = append(p.free, m)
}
