package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// maxFileBytes bounds what is read from the directory.
const maxFileBytes = 64 << 10

func openDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create identity directory %s: %w", dir, err)
	}
	mode, err := statMode(dir)
	if err != nil {
		return fmt.Errorf("open identity directory: %w", err)
	}
	if !mode.IsDir() {
		return fmt.Errorf("open identity directory %s: not a directory", dir)
	}
	if mode.Perm()&0o077 != 0 {
		return fmt.Errorf("open identity directory %s: mode %04o: %w (chmod 0700 %s; if others may have read it, move it away and enrol agents again)",
			dir, mode.Perm(), ErrExposed, dir)
	}
	return nil
}

// loadOrCreate reads a file or makes it. When two processes make it at once, both return the file
// of the one that came first.
func loadOrCreate(path string, content func() ([]byte, error)) ([]byte, error) {
	b, err := load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	fresh, err := content()
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	temp, err := writeTemp(path, fresh)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	defer os.Remove(temp)
	// link fails where the name exists, which rename would overwrite.
	if err := os.Link(temp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return load(path)
}

// replace puts a new version of a file in place of the old one.
func replace(path string, content []byte) error {
	temp, err := writeTemp(path, content)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(temp, path); err != nil {
		os.Remove(temp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func load(path string) ([]byte, error) {
	mode, err := statMode(path)
	if err != nil {
		return nil, fmt.Errorf("read identity file: %w", err)
	}
	if !mode.IsRegular() {
		return nil, fmt.Errorf("read %s: not a regular file", path)
	}
	if mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read %s: mode %04o: %w (if it may have been read, replace it; else chmod 0600 %s)", path, mode.Perm(), ErrExposed, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read identity file: %w", err)
	}
	if len(b) > maxFileBytes {
		return nil, fmt.Errorf("read %s: %w: larger than %d bytes", path, ErrDamaged, maxFileBytes)
	}
	return b, nil
}

func writeTemp(path string, content []byte) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // CreateTemp makes it 0600.
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	err = errors.Join(d.Sync(), d.Close())
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

func statMode(path string) (os.FileMode, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	return st.Mode(), nil
}
