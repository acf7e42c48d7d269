package siem

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// onSmallDisk runs fn with a file system of 64 KiB that this test's thread alone sees.
func onSmallDisk(t *testing.T, fn func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	skip := make(chan error, 1)
	go func() {
		defer close(skip)
		// Never unlocked: the thread, whose mounts differ from all others', ends with the goroutine.
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
			skip <- fmt.Errorf("unshare mounts: %w", err)
			return
		}
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			skip <- fmt.Errorf("make mounts private: %w", err)
			return
		}
		if err := syscall.Mount("small", dir, "tmpfs", 0, "size=64k"); err != nil {
			skip <- fmt.Errorf("mount: %w", err)
			return
		}
		fn(dir)
	}()
	if err := <-skip; err != nil {
		t.Skipf("a small disk needs the right to mount: %v", err)
	}
}

func TestFileOnAFullDisk(t *testing.T) {
	onSmallDisk(t, func(dir string) {
		path := filepath.Join(dir, "f.jsonl")
		sink, err := openFile(Config{Name: "f", Path: path, MaxBytes: 1 << 20, Keep: 2}, World{})
		if err != nil {
			t.Error(err)
			return
		}
		defer sink.Close()
		filler := filepath.Join(dir, "filler")
		if err := os.WriteFile(filler, make([]byte, 32<<10), 0o600); err != nil {
			t.Error(err)
			return
		}
		full, want := 0, ""
		for i := range 100 {
			line := fmt.Sprintf("%d %s\n", i, strings.Repeat("x", 700))
			for {
				err := sink.Write([]byte(line))
				if err == nil {
					err = sink.Sync()
				}
				if err == nil {
					break
				}
				if full++; !errors.Is(err, syscall.ENOSPC) || full > 10 {
					t.Errorf("line %d: %v", i, err)
					return
				}
				if full == 3 {
					if err := os.Remove(filler); err != nil {
						t.Error(err)
						return
					}
				}
			}
			want += line
			if len(want) > 50<<10 {
				break
			}
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want || full != 3 {
			t.Errorf("after %d refusals the file holds %d bytes, want 3 and %d: %v", full, len(got), len(want), err)
		}
	})
}
