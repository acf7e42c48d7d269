package vmtest

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Initramfs collects files for the guest's root; Write packs them as a gzipped cpio archive ("newc",
// Documentation/driver-api/early-userspace/buffer-format.rst of the kernel).
type Initramfs struct {
	files map[string]entry
}

type entry struct {
	mode uint32
	data []byte
}

const (
	modeDir  = 0o040755
	modeFile = 0o100755
	modeLink = 0o120777
)

// NewInitramfs begins with an empty root.
func NewInitramfs() *Initramfs { return &Initramfs{files: map[string]entry{}} }

// Add puts data at the absolute path name, executable, with its parent directories.
func (r *Initramfs) Add(name string, data []byte) { r.put(name, entry{modeFile, data}) }

// Dir makes an empty directory.
func (r *Initramfs) Dir(name string) { r.put(name, entry{modeDir, nil}) }

// Link makes a symbolic link.
func (r *Initramfs) Link(name, target string) { r.put(name, entry{modeLink, []byte(target)}) }

func (r *Initramfs) put(name string, e entry) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := r.files[dir]; !ok {
			r.files[dir] = entry{modeDir, nil}
		}
	}
	r.files[name] = e
}

var sharedObject = regexp.MustCompile(`(/\S+) \(0x`)

// Program puts a program of this machine at the same path, with every shared library that ldd names.
func (r *Initramfs) Program(name string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	paths := []string{file}
	out, err := exec.Command("ldd", file).CombinedOutput()
	if err == nil { // ldd fails on a static program
		for _, m := range sharedObject.FindAllStringSubmatch(string(out), -1) {
			paths = append(paths, m[1])
		}
	}
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
		r.Add(p, data)
	}
	return nil
}

// Write packs the archive into file.
func (r *Initramfs) Write(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	defer f.Close()
	buffered := bufio.NewWriterSize(f, 1<<20)
	zip, err := gzip.NewWriterLevel(buffered, gzip.BestSpeed)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	names := make([]string, 0, len(r.files))
	for name := range r.files {
		names = append(names, name)
	}
	slices.Sort(names) // parents come before their children
	for i, name := range names {
		writeEntry(zip, i+1, name, r.files[name])
	}
	writeEntry(zip, 0, "TRAILER!!!", entry{})
	for _, step := range []func() error{zip.Close, buffered.Flush, f.Close} {
		if err := step(); err != nil {
			return fmt.Errorf("write initramfs: %w", err)
		}
	}
	return nil
}

// writeEntry leaves errors to Close: gzip and bufio keep the first one.
func writeEntry(w io.Writer, inode int, name string, e entry) {
	fmt.Fprintf(w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		inode, e.mode, 0, 0, 1, 0, len(e.data), 0, 0, 0, 0, len(name)+1, 0)
	io.WriteString(w, name+"\x00"+strings.Repeat("\x00", pad4(110+len(name)+1)))
	w.Write(e.data)
	io.WriteString(w, strings.Repeat("\x00", pad4(len(e.data))))
}

func pad4(n int) int { return (4 - n%4) % 4 }
