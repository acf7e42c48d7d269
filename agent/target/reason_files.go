package target

import (
	"bytes"
	"os"
	"path"
	"slices"
	"time"
)

// maxRead bounds what is remembered of files.
const maxRead = 4096

// opened is what was read of one file. It is read once, whatever the number of processes that run it.
type opened struct {
	search   *search
	carries  []string // what it found, once it is done
	done     bool
	imports  []string
	imported bool // imports is known
}

func (e *Explainer) file(at stamp) *opened {
	f, ok := e.files[at]
	if !ok {
		if len(e.files) >= maxRead {
			for old := range e.files {
				delete(e.files, old) // any one will do: what is still in use is read again
				break
			}
		}
		f = &opened{}
		e.files[at] = f
	}
	return f
}

// searchAll looks for stacks by their marks in the executable, and where that shows none in the other files that the
// process runs code of.
func (e *Explainer) searchAll(s *sight, pid uint32, exe *os.File, mappings []mapping, until time.Time) {
	own, err := stampOf(exe)
	if err != nil {
		return
	}
	for _, name := range e.searchFile(s, exe, own, until) {
		add(&s.others, e.linkedInto(name))
	}
	if s.packed = s.packed && len(s.others) == 0; s.packed || s.searching || len(s.others) > 0 {
		return
	}
	for _, m := range mappings {
		if len(s.others) >= maxNamed || e.decodes(m.path) {
			continue
		}
		f, err := openMapped(e.Proc, pid, m)
		if err != nil {
			continue // what is out of reach shows nothing
		}
		if at, err := stampOf(f); err == nil && at != own {
			for _, name := range e.searchFile(s, f, at, until) {
				add(&s.others, name+inside+path.Base(m.path))
			}
		}
		f.Close()
	}
}

// maxNamed bounds one line.
const maxNamed = 4

// inside stands between a stack and the file that carries it.
const inside = " inside "

// linkedInto says why a stack in an executable is not decoded.
func (e *Explainer) linkedInto(name string) string {
	for _, of := range e.stacks {
		if of.name == name && of.bySymbol {
			return name + " linked statically into the executable and stripped of the symbols that probes need"
		}
	}
	return name + " in the executable"
}

// decodes reports whether a mapped file is a library of the table.
func (e *Explainer) decodes(file string) bool {
	return slices.ContainsFunc(e.Libraries, func(lib Library) bool { return lib.Where == SharedObject && lib.named(file) })
}

// searchFile searches one file, or goes on where the round before stopped.
func (e *Explainer) searchFile(s *sight, f *os.File, at stamp, until time.Time) []string {
	file := e.file(at)
	if file.search == nil {
		job, err := newSearch(f, at.size, e.finder.texts, e.Cache.budget)
		if err != nil {
			job = &search{ends: make([][]uint64, e.finder.texts)} // not to be read as a program: it shows nothing
		}
		file.search = job
	}
	job := file.search
	switch {
	case file.done:
	case job.advance(f, e.finder, until):
		file.done = true
		file.carries = append(carried(e.stacks, job), goForks(f, job)...)
		job.ends = nil
	default:
		s.searching = true
	}
	s.cut = s.cut || job.cut
	s.packed = s.packed || job.packed
	return file.carries
}

// bypasses are functions that move plain bytes, or make something that does, and that callers use instead of those
// with probes.
func bypasses() []string {
	return []string{
		"BIO_f_ssl", "BIO_new_ssl", "BIO_new_ssl_connect", "BIO_new_buffer_ssl_connect",
		"SSL_sendfile", "SSL_read_early_data", "SSL_write_early_data", "SSL_write_ex2",
		"gnutls_record_send_file", "gnutls_record_recv_packet", "gnutls_record_recv_seq",
		"gnutls_record_send_early_data", "gnutls_record_recv_early_data",
	}
}

// imports lists which functions without a probe a program names for the dynamic linker.
func (e *Explainer) imports(exe *os.File) []string {
	at, err := stampOf(exe)
	if err != nil {
		return nil
	}
	file := e.file(at)
	if !file.imported {
		file.imported = true
		probed := func(name string) bool {
			return slices.ContainsFunc(e.Libraries, func(lib Library) bool { return slices.Contains(lib.symbols(), name) })
		}
		file.imports = slices.DeleteFunc(importsOf(exe, bypasses(), e.Cache.budget), probed)
	}
	return file.imports
}

// maxNames bounds the names that a program may import, in bytes.
const maxNames = 4 << 20

func importsOf(exe *os.File, wanted []string, b Budget) []string {
	im, err := openImage(newBounded(exe, b))
	if err != nil {
		return nil
	}
	d, ok, err := im.dynamic()
	if err != nil || !ok {
		return nil
	}
	names := make([]byte, min(d.namesSize, maxNames))
	n, _ := exe.ReadAt(names, int64(d.names)) // a file that is shorter than it says has fewer names
	return slices.DeleteFunc(slices.Clone(wanted), func(name string) bool {
		return !bytes.Contains(names[:n], []byte("\x00"+name+"\x00"))
	})
}
