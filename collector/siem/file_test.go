package siem

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func mustFile(t *testing.T, path string, maxBytes int64, keep int) *file {
	t.Helper()
	s, err := openFile(Config{Name: "f", Path: path, MaxBytes: maxBytes, Keep: keep}, World{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*file)
}

func put(t *testing.T, s Sink, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if err := s.Write([]byte(l + "\n")); err != nil {
			t.Fatal(err)
		}
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFileIsPrivateAndAppends(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.jsonl")
	s := mustFile(t, path, 1<<20, 2)
	put(t, s, "a", "b")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	put(t, mustFile(t, path, 1<<20, 2), "c")
	if got := content(t, path); got != "a\nb\nc\n" {
		t.Fatalf("%q", got)
	}
}

func TestFileCutsOffAPartialLine(t *testing.T) {
	long := strings.Repeat("x", 200_000) // longer than repair reads at once
	for name, c := range map[string][2]string{
		"after a line":      {"a\n{\"b", "a\nz\n"},
		"alone":             {"{\"b", "z\n"},
		"long, after lines": {"a\nb\n" + long, "a\nb\nz\n"},
		"long, alone":       {long, "z\n"},
		"none":              {"a\n", "a\nz\n"},
		"on the border":     {"a\n" + strings.Repeat("y", 64<<10-2) + "\n" + strings.Repeat("x", 64<<10), "a\n" + strings.Repeat("y", 64<<10-2) + "\nz\n"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f.jsonl")
			if err := os.WriteFile(path, []byte(c[0]), 0o600); err != nil {
				t.Fatal(err)
			}
			put(t, mustFile(t, path, 1<<20, 2), "z")
			if got := content(t, path); got != c[1] {
				t.Fatalf("got %d bytes ending in %.40q", len(got), got[max(0, len(got)-40):])
			}
		})
	}
}

func TestFileRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.jsonl")
	s := mustFile(t, path, 10, 2)
	put(t, s, "aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff", "gggg")
	for name, want := range map[string]string{"": "gggg\n", ".1": "eeee\nffff\n", ".2": "cccc\ndddd\n"} {
		if got := content(t, path+name); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	if _, err := os.Stat(path + ".3"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a third rotated file: %v", err)
	}
	// A line larger than the limit has a file of its own.
	put(t, s, strings.Repeat("h", 50), "i")
	if got := content(t, path+".1"); got != strings.Repeat("h", 50)+"\n" {
		t.Errorf("large line is in %q", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("rotated file: %v, %v", info.Mode(), err)
	}
}

func TestFileFollowsItsName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.jsonl")
	s := mustFile(t, path, 1<<20, 2)
	put(t, s, "a")
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	put(t, s, "b")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	put(t, s, "c")
	if got := content(t, path+".moved") + content(t, path); got != "a\nc\n" {
		t.Fatalf("%q", got)
	}
}

func TestFileRefuses(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	busy := filepath.Join(dir, "busy")
	put(t, mustFile(t, busy, 1<<20, 2), "a")
	for path, want := range map[string]string{
		dir:                           "is a directory",
		filepath.Join(plain, "below"): "not a directory",
		filepath.Join(dir, "no", "x"): "no such file",
		fifo:                          "not a regular file",
		"/dev/null":                   "not a regular file",
		busy:                          "another process or sink",
	} {
		err := mustFile(t, path, 1<<20, 2).Write([]byte("x\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
	if _, err := openFile(Config{Name: "f"}, World{}); !errors.Is(err, ErrConfig) {
		t.Errorf("no path: %v", err)
	}
}

// faulty is a file on a disk that fills up or fails to sync.
type faulty struct {
	handle
	room      *int
	failSync  *int
	failTrunc *bool
}

func (f faulty) WriteAt(b []byte, off int64) (int, error) {
	if len(b) > *f.room {
		n, _ := f.handle.WriteAt(b[:*f.room], off)
		*f.room = 0
		return n, syscall.ENOSPC
	}
	*f.room -= len(b)
	return f.handle.WriteAt(b, off)
}

func (f faulty) Truncate(n int64) error {
	if *f.failTrunc {
		return syscall.EIO
	}
	return f.handle.Truncate(n)
}

func (f faulty) Sync() error {
	if *f.failSync > 0 {
		*f.failSync--
		return syscall.EIO
	}
	return f.handle.Sync()
}

// A disk that fills up in the middle of a line, or fails to sync, costs no line and doubles none.
func TestFileSurvivesAFaultyDisk(t *testing.T) {
	for _, noTruncate := range []bool{false, true} {
		t.Run(fmt.Sprintf("truncate fails %v", noTruncate), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f.jsonl")
			room, failSync, failTrunc := 10, 0, noTruncate
			s := mustFile(t, path, 1<<20, 2)
			s.open = func(path string) (handle, error) {
				f, err := openLocked(path)
				if err != nil {
					return nil, err
				}
				return faulty{f, &room, &failSync, &failTrunc}, nil
			}
			put(t, s, "aaaa")
			for range 3 {
				if err := s.Write([]byte("bbbbbb\n")); !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EIO) {
					t.Fatalf("full disk: %v", err)
				}
			}
			room, failTrunc = 1000, false
			put(t, s, "bbbbbb")
			if got := content(t, path); got != "aaaa\nbbbbbb\n" {
				t.Fatalf("after the disk had room again: %q", got)
			}
			if err := s.Write([]byte("cc\n")); err != nil {
				t.Fatal(err)
			}
			failSync = 1
			if err := s.Sync(); !errors.Is(err, syscall.EIO) {
				t.Fatalf("failed sync: %v", err)
			}
			put(t, s, "cc", "dd")
			if got := content(t, path); got != "aaaa\nbbbbbb\ncc\ndd\n" {
				t.Fatalf("after a failed sync: %q", got)
			}
		})
	}
}
