package target

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// says checks one line for a person: what, why, what to do, and nothing of the causes below.
func says(t *testing.T, err error, cause error, what, why, remedy string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %q", why)
		return
	}
	text := err.Error()
	if cause != nil && !errors.Is(err, cause) {
		t.Errorf("%q is not about %v", text, cause)
	}
	if !strings.HasPrefix(text, what+": ") || !strings.Contains(text, why) || !strings.Contains(text, "; ") ||
		!strings.Contains(text[strings.LastIndex(text, "; "):], remedy) || strings.Contains(text, "\n") {
		t.Errorf("%q\nwant %q, that it says %q, and then %q", text, what, why, remedy)
	}
	if cause != nil && why != Innermost(cause) && strings.Contains(text, cause.Error()) {
		t.Errorf("%q repeats what the kernel said", text)
	}
}

func TestCannotOpenSaysWhatToDo(t *testing.T) {
	there, gone := mapping{path: "/x/libssl.so.3"}, mapping{path: "/x/libssl.so.3", deleted: true}
	for _, tc := range []struct {
		m           mapping
		err         error
		why, remedy string
	}{
		{there, unix.EMFILE, "too many files", "LimitNOFILE"},
		{there, unix.ENFILE, "too many files", "fs.file-max"},
		{there, unix.EACCES, "may not open files of this process", "CAP_SYS_PTRACE"},
		{there, unix.ENOENT, "nothing is at its path", "CAP_CHECKPOINT_RESTORE"},
		{there, unix.ENOSYS, "openat2", "seccomp"},
		{there, unix.ELOOP, "out of the root", "CAP_CHECKPOINT_RESTORE"},
		{there, unix.EIO, "input/output error", "file system"},
		{there, errNotRegular, "not lead to a regular file", "restart the program"},
		{there, ErrChanged, "another file", "restart the program"},
		{gone, unix.EPERM, "only the kernel still has it", "CAP_CHECKPOINT_RESTORE"},
		{gone, unix.ENOENT, "not mapped there any more", "nothing needs to be done"},
	} {
		wrapped := &os.PathError{Op: "open", Path: "/proc/7/map_files/a-b", Err: tc.err}
		says(t, cannotOpen(tc.m, 7, wrapped), tc.err, "open /x/libssl.so.3 of process 7", tc.why, tc.remedy)
	}
}

func TestCannotReadSaysWhatToDo(t *testing.T) {
	lib := Libraries()[0]
	dir := t.TempDir()
	describe := func(name string, text []byte, b Budget) error {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return Describe(NewCache(b), lib, path, open(t, path)).Problem
	}
	library, err := os.ReadFile(systemLibrary(t))
	if err != nil {
		t.Fatal(err)
	}
	narrow := append([]byte("\x7fELF\x01\x01\x01"), make([]byte, 100)...)
	says(t, describe("script", []byte("INPUT(-lssl)\n"), slow()), ErrNotELF, "read "+dir+"/script", "64-bit", "64-bit build")
	says(t, describe("narrow", narrow, slow()), ErrNotELF, "read "+dir+"/narrow", "64-bit", "64-bit build")
	says(t, describe("empty", nil, slow()), ErrNotELF, "read "+dir+"/empty", "64-bit", "64-bit build")
	says(t, describe("dear", library, Budget{Bytes: blockSize, Time: time.Minute}), ErrBudget, "read "+dir+"/dear", "more reading", "the distribution's build of OpenSSL")
	for _, part := range []int{8, 3, 2} {
		name := fmt.Sprint("cut", part)
		says(t, describe(name, library[:len(library)/part], slow()), nil, "read "+dir+"/"+name, fmt.Sprintf("cut short: %d of", len(library)/part), "reinstall")
	}
	text, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	says(t, describe("other", text, slow()), nil, "read "+dir+"/other", "it exports no SSL_read", "a build that exports it")
	says(t, cannotRead(lib, "/x", fmt.Errorf("read: %w", io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF, "read /x", "unexpected EOF", "file system")
}
