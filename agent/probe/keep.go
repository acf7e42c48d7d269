package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxKept bounds what is read of a file of ours: both hold far less.
const maxKept = 4 << 20

// errNothingKept says that there is no such file yet.
var errNothingKept = errors.New("nothing was kept")

// load reads a file of the data directory. It is strict: what a person mistyped must not pass for nothing.
func load(path string, into any) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return errNothingKept
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKept+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if len(text) > maxKept {
		return fmt.Errorf("read %s: it is longer than %d bytes", path, maxKept)
	}
	strict := json.NewDecoder(bytes.NewReader(text))
	strict.DisallowUnknownFields()
	if err := strict.Decode(into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if _, err := strict.Token(); err != io.EOF {
		return fmt.Errorf("read %s: something follows its end", path)
	}
	return nil
}

// save replaces a file of the data directory as a whole: a crash leaves the old one or the new one.
func save(path string, from any) error {
	text, err := json.MarshalIndent(from, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // fails once it has its name
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
