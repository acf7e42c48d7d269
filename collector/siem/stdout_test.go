package siem

import (
	"errors"
	"strings"
	"testing"
)

// pipe takes so many bytes, then fails once.
type pipe struct {
	strings.Builder
	room int
}

var errPipe = errors.New("pipe is full")

func (p *pipe) Write(b []byte) (int, error) {
	if len(b) > p.room {
		n, _ := p.Builder.Write(b[:p.room])
		p.room = 1000
		return n, errPipe
	}
	p.room -= len(b)
	return p.Builder.Write(b)
}

func TestStdoutBeginsAnewAfterATornLine(t *testing.T) {
	p := &pipe{room: 4}
	s, err := openStdout(Config{}, World{Stdout: p})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a")
	if err := s.Write([]byte("bbbb\n")); !errors.Is(err, errPipe) {
		t.Fatal(err)
	}
	put(t, s, "bbbb", "c")
	if got := p.String(); got != "a\nbb\nbbbb\nc\n" {
		t.Fatalf("%q", got)
	}
	if _, err := openStdout(Config{}, World{}); err == nil {
		t.Fatal("a sink without standard output opened")
	}
}
