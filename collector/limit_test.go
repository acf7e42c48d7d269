package main

import (
	"errors"
	"net"
	"testing"
	"time"
)

// TestConnectionsAreBounded opens one more than there are places: it gets one when another leaves.
func TestConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limit(inner, 2)
	accepted := make(chan net.Conn)
	failed := make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				failed <- err
				return
			}
			accepted <- c
		}
	}()
	for range 3 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first := <-accepted
	<-accepted
	select {
	case <-accepted:
		t.Fatal("a third connection was accepted")
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	first.Close() // gives one place back, not two
	<-accepted
	if n := len(l.(*limited).places); n != 2 {
		t.Errorf("%d places taken, want 2", n)
	}
	l.Close()
	select {
	case err := <-failed:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("after close: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("a listener without places does not close")
	}
}
