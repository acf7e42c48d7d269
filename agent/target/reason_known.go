package target

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"slices"
	"time"
)

// implementation is a TLS library that Spile knows of and does not decode.
type implementation struct {
	name   string
	files  []string // patterns of the name of a mapped file
	symbol string   // which the file exports, or it is not this; "" = the name is proof enough
}

// implementations is the table of names behind the reasons.
func implementations() []implementation {
	return []implementation{
		{"Java's own TLS (JSSE)", []string{"libjvm.so"}, ""},
		// Firefox has all of NSS in libnss3.so. Elsewhere that file only encrypts.
		{"NSS", []string{"libssl3.so", "libnss3.so"}, "SSL_ImportFD"},
		{"Erlang's own TLS (OTP's ssl)", []string{"beam.smp", "beam.*.smp"}, ""},
		{"BoringSSL inside netty-tcnative", []string{"libnetty_tcnative*.so*"}, ""},
		{"BoringSSL inside Conscrypt", []string{"libconscrypt*.so*"}, ""},
		{"BoringSSL inside Mono", []string{"libmono-btls-shared.so"}, ""},
		{"Mbed TLS", []string{"libmbedtls.so*"}, "mbedtls_ssl_read"},
		{"wolfSSL", []string{"libwolfssl.so*"}, "wolfSSL_read"},
		{"s2n-tls", []string{"libs2n.so*"}, "s2n_recv"},
		{"rustls (C interface)", []string{"librustls.so*", "librustls_ffi.so*"}, "rustls_connection_read"},
		{"Botan", []string{"libbotan-*.so*"}, ""},
		{"MatrixSSL", []string{"libmatrixssl.so*", "libssl_s.so*"}, ""},
	}
}

// known names the libraries without probes among the mapped files.
func (e *Explainer) known(s *sight, pid uint32, mappings []mapping) {
	for _, impl := range implementations() {
		for _, m := range mappings {
			named := slices.ContainsFunc(impl.files, func(pattern string) bool {
				ok, _ := path.Match(pattern, path.Base(m.path))
				return ok
			})
			if named && e.exports(pid, m, impl.symbol) {
				add(&s.others, impl.name)
			}
		}
	}
}

// exports reports whether a mapped file exports a function. Where it cannot be read its name has to do.
func (e *Explainer) exports(pid uint32, m mapping, symbol string) bool {
	if symbol == "" {
		return true
	}
	f, err := openMapped(e.Proc, pid, m)
	if err != nil {
		return true
	}
	defer f.Close()
	at, err := stampOf(f)
	if err != nil {
		return true
	}
	facts, err := e.Cache.library(f, at, Library{Name: symbol, Functions: []Function{{Symbol: symbol}}})
	if err != nil {
		return true
	}
	_, there := facts.Functions[symbol]
	return there
}

// builtIn finds what the executable itself carries of the table.
func (e *Explainer) builtIn(s *sight, name string, exe *os.File) {
	f, found := DescribeProgram(e.Cache, e.Libraries, name, exe)
	if !found {
		return
	}
	e.judge(s, f)
	if f.Problem != nil {
		return
	}
	at, err := stampOf(exe)
	if err != nil {
		return
	}
	// A program may carry two libraries of which one has no place for probes.
	if facts, err := e.Cache.program(exe, at, e.Libraries); err == nil {
		for _, c := range facts.Carried {
			if c.Problem != nil {
				add(&s.problems, fmt.Sprintf("%s is not decoded: %v", c.Library, c.Problem))
			}
		}
	}
}

// maxSearches bounds what is remembered of searched files.
const maxSearches = 4096

// searchAll looks for implementations by their texts in the executable, and where that shows none in the other files
// that the process runs code of.
func (e *Explainer) searchAll(s *sight, pid uint32, exe *os.File, mappings []mapping, until time.Time) {
	names, at := e.searchFile(s, exe, until)
	for _, name := range names {
		add(&s.others, e.linkedInto(name))
	}
	s.packed = s.packed && len(names) == 0
	if len(names) > 0 || s.searching {
		return
	}
	for _, m := range mappings {
		if len(s.others) == maxNamed || e.decodes(m.path) {
			continue
		}
		f, err := openMapped(e.Proc, pid, m)
		if err != nil {
			continue // a file that is out of reach shows nothing
		}
		if other, err := stampOf(f); err == nil && other != at {
			names, _ := e.searchFile(s, f, until)
			for _, name := range names {
				add(&s.others, name+" inside "+path.Base(m.path))
			}
		}
		f.Close()
	}
}

// linkedInto says why a stack in an executable is not decoded.
func (e *Explainer) linkedInto(name string) string {
	for _, of := range e.stacks {
		if of.name == name && of.bySymbol {
			return name + " linked into the executable without the symbols that probes need"
		}
	}
	return name + " linked into the executable"
}

// maxNamed bounds one line.
const maxNamed = 4

// decodes reports whether a mapped file is a library of the table.
func (e *Explainer) decodes(file string) bool {
	return slices.ContainsFunc(e.Libraries, func(lib Library) bool { return lib.Where == SharedObject && lib.named(file) })
}

// searchFile searches one file, or goes on where the round before stopped. A file is searched once, not per process.
func (e *Explainer) searchFile(s *sight, f *os.File, until time.Time) ([]string, stamp) {
	at, err := stampOf(f)
	if err != nil {
		return nil, at
	}
	job, ok := e.searches[at]
	if !ok {
		if job, err = newSearch(f, at.size, e.finder.texts, e.Cache.budget); err != nil {
			job = &search{seen: make([]bool, e.finder.texts)} // not readable as a program: nothing is seen in it
		}
		if len(e.searches) >= maxSearches {
			for old := range e.searches {
				delete(e.searches, old) // any one will do: what is still in use is searched again
				break
			}
		}
		e.searches[at] = job
	}
	if !job.advance(f, e.finder, until) {
		s.searching = true
	}
	s.cut = s.cut || job.cut
	s.packed = s.packed || job.packed
	return carried(e.stacks, job.seen), at
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

// maxNames bounds the names that a program may import, in bytes.
const maxNames = 4 << 20

// imports lists which of the functions without a probe a program names for the dynamic linker.
func (e *Explainer) imports(exe *os.File) []string {
	im, err := openImage(newBounded(exe, e.Cache.budget))
	if err != nil {
		return nil
	}
	d, ok, err := im.dynamic()
	if err != nil || !ok {
		return nil
	}
	names := make([]byte, min(d.namesSize, maxNames))
	if n, err := exe.ReadAt(names, int64(d.names)); err != nil {
		names = names[:n]
	}
	var found []string
	for _, name := range bypasses() {
		probed := slices.ContainsFunc(e.Libraries, func(lib Library) bool { return slices.Contains(lib.symbols(), name) })
		if !probed && bytes.Contains(names, []byte("\x00"+name+"\x00")) {
			found = append(found, name)
		}
	}
	return found
}
