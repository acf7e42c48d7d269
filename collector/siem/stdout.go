package siem

import (
	"errors"
	"fmt"
	"io"
)

// stdout writes lines to the program's standard output. It promises that a line was handed to the pipe or terminal, no more.
type stdout struct {
	out io.Writer
	// torn says that a line was cut off; the next begins on a new one.
	torn bool
}

func openStdout(_ Config, w World) (Sink, error) {
	if w.Stdout == nil {
		return nil, errors.New("open stdout sink: the program has no standard output")
	}
	return &stdout{out: w.Stdout}, nil
}

func (s *stdout) Write(line []byte) error {
	if s.torn {
		if _, err := s.out.Write([]byte("\n")); err != nil {
			return fmt.Errorf("write to standard output: %w", err)
		}
		s.torn = false
	}
	n, err := s.out.Write(line)
	if err != nil {
		s.torn = n > 0
		return fmt.Errorf("write to standard output: %w", err)
	}
	return nil
}

func (*stdout) Sync() error  { return nil }
func (*stdout) Close() error { return nil }
