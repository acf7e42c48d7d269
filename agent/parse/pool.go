package parse

const (
	pooled     = 4
	pooledBody = 4096
)

// Pool keeps a few messages of one connection for reuse, so that a keep-alive connection allocates little but strings.
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

// Put takes back a message that nobody holds. A large body is not kept.
func (p *Pool) Put(m *Message) {
	if m == nil || len(p.free) >= pooled {
		return
	}
	header, trailer, body := m.Header, m.Trailer, m.Body
	clear(header)
	clear(trailer)
	if cap(body) > pooledBody {
		body = nil
	}
	*m = Message{Header: header[:0], Trailer: trailer[:0], Body: body[:0]}
	p.free = append(p.free, m)
}
