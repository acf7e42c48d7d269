package siem

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// handle is what the sink does with an open file; os.File is one.
type handle interface {
	io.WriterAt
	io.ReaderAt
	io.Closer
	Truncate(size int64) error
	Sync() error
	Stat() (os.FileInfo, error)
}

// file appends lines to a file and rotates it by size. The file holds whole lines only: what a crash or a full disk cut off is
// removed before the next line.
type file struct {
	path     string
	maxBytes int64
	keep     int
	open     func(path string) (handle, error)

	f handle
	// size is where the next line begins; synced is how much survives a crash.
	size, synced int64
}

func openFile(c Config, _ World) (Sink, error) {
	if c.Path == "" {
		return nil, fmt.Errorf("open sink %q: %w: kind file needs a path", c.Name, ErrConfig)
	}
	path, err := filepath.Abs(c.Path)
	if err != nil {
		return nil, fmt.Errorf("open sink %q: resolve %s: %w", c.Name, c.Path, err)
	}
	return &file{path: path, maxBytes: c.MaxBytes, keep: c.Keep, open: openLocked}, nil
}

// openLocked opens a regular file for one writer. It may hold secrets of an organisation's weakness: 0600 unless it exists.
func openLocked(path string) (handle, error) {
	// O_NONBLOCK: a FIFO without a reader must not hang the sink before it is refused.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil {
		return nil, errors.Join(err, f.Close())
	} else if !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is not a regular file", path), f.Close())
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is written by another process or sink: %w", path, err), f.Close())
	}
	return f, nil
}

func (s *file) Write(line []byte) error {
	if err := s.ready(int64(len(line))); err != nil {
		return fmt.Errorf("write to %s: %w", s.path, err)
	}
	if _, err := s.f.WriteAt(line, s.size); err != nil {
		// A full disk may have taken a part. Cut it off; where that fails too, the next ready does.
		if cut := s.f.Truncate(s.size); cut != nil {
			s.drop()
		}
		return fmt.Errorf("write to %s: %w", s.path, err)
	}
	s.size += int64(len(line))
	return nil
}

// Sync makes what was written survive a crash. After an error the kernel may have thrown pages away and calls them clean
// (fsync reports a failure once), so everything since the last good Sync is cut off and has to be written again.
func (s *file) Sync() error {
	if s.f == nil {
		return fmt.Errorf("sync %s: not open", s.path)
	}
	if err := s.f.Sync(); err != nil {
		if s.f.Truncate(s.synced) == nil {
			s.size = s.synced
		}
		s.drop()
		return fmt.Errorf("sync %s: %w", s.path, err)
	}
	s.synced = s.size
	return nil
}

func (s *file) Close() error {
	if s.f == nil {
		return nil
	}
	err := s.f.Close()
	s.f = nil
	return err
}

func (s *file) drop() {
	_ = s.f.Close() // whatever it says, the file is opened and repaired anew
	s.f = nil
}

// ready has the file open, whole, at its path, and with room for n more bytes.
func (s *file) ready(n int64) error {
	if s.f != nil && !s.atPath() {
		// Moved or removed by something else (logrotate): go on in a new file.
		s.drop()
	}
	if s.f == nil {
		if err := s.reopen(); err != nil {
			return err
		}
	}
	if s.size == 0 || s.size+n <= s.maxBytes {
		return nil
	}
	return s.rotate()
}

func (s *file) atPath() bool {
	have, err := s.f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(s.path)
	return err == nil && os.SameFile(have, there)
}

func (s *file) reopen() error {
	f, err := s.open(s.path)
	if err != nil {
		return err
	}
	size, err := repair(f)
	if err == nil {
		// A new file's name must survive a crash as its lines do.
		err = syncDir(filepath.Dir(s.path))
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	s.f, s.size, s.synced = f, size, size
	return nil
}

// repair cuts off what follows the last newline and returns the size that is left.
func repair(f handle) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	const step = 64 << 10
	buf := make([]byte, step)
	whole := int64(0)
	for end := info.Size(); end > 0; {
		begin := max(end-step, 0)
		part := buf[:end-begin]
		if _, err := f.ReadAt(part, begin); err != nil && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("look for the last whole line: %w", err)
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			whole = begin + int64(i) + 1
			break
		}
		end = begin
	}
	if whole == info.Size() {
		return whole, nil
	}
	if err := f.Truncate(whole); err != nil {
		return 0, fmt.Errorf("cut off a partial line: %w", err)
	}
	return whole, f.Sync()
}

// rotate renames PATH to PATH.1, PATH.1 to PATH.2 and so on; the oldest is replaced. A crash in between leaves a gap in the
// numbers and no line lost.
func (s *file) rotate() error {
	if err := s.f.Sync(); err != nil {
		s.drop()
		return err
	}
	for i := s.keep - 1; i >= 1; i-- {
		if err := rename(fmt.Sprintf("%s.%d", s.path, i), fmt.Sprintf("%s.%d", s.path, i+1)); err != nil {
			return err
		}
	}
	if err := rename(s.path, s.path+".1"); err != nil {
		return err
	}
	s.drop()
	return s.reopen()
}

func rename(from, to string) error {
	err := os.Rename(from, to)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
