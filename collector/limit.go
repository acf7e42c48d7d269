package main

import (
	"net"
	"sync"
)

const (
	// Nobody who is not an agent has a reason for more; an idle connection costs some ten kilobytes.
	maxQueryConns = 256
	maxHTTPConns  = 256
	// Somewhat more than intake's limit of agents, so that intake can say no with a reason.
	maxAgentConns = 12_000
)

// limited bounds the connections of a listener. Who comes beyond waits in the kernel's queue, which is bounded too.
type limited struct {
	net.Listener
	places chan struct{}
	once   sync.Once
	closed chan struct{}
}

func limit(l net.Listener, conns int) net.Listener {
	return &limited{Listener: l, places: make(chan struct{}, conns), closed: make(chan struct{})}
}

// Accept waits for a place, then for a connection.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &placed{Conn: c, leave: sync.OnceFunc(func() { <-l.places })}, nil
}

// Close also wakes who waits for a place.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// placed gives its place back when it is closed.
type placed struct {
	net.Conn
	leave func()
}

func (p *placed) Close() error {
	defer p.leave()
	return p.Conn.Close()
}
