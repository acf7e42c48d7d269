package target

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// wellKnown visits what lies where distributions put the libraries of the table.
func wellKnown(libs []Library, visit func(lib Library, path string)) {
	for _, lib := range libs {
		for _, pattern := range lib.WellKnown {
			paths, _ := filepath.Glob(pattern) // the patterns are literals of ours
			for _, path := range paths {
				visit(lib, path)
			}
		}
	}
}

// Installed describes these libraries, each file once. They are for a person to read, not for probes: none stays open.
func Installed(cache *Cache, libs []Library) []File {
	var list []File
	seen := map[Identity]bool{}
	wellKnown(libs, func(lib Library, path string) {
		handle, err := openRegular(unix.AT_FDCWD, path, 0)
		if err != nil {
			return // a dangling link
		}
		defer handle.Close()
		f := Describe(cache, lib, path, handle)
		f.Handle = nil
		if !seen[f.ID] {
			seen[f.ID] = true
			list = append(list, f)
		}
	})
	return list
}
