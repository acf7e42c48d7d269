package target

import (
	"fmt"
	"os"
	"path"
	"slices"
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
