package target

import (
	"fmt"
	"os"
	"path"
	"slices"
)

// implementation is a TLS library that Spile knows of and does not decode.
type implementation struct {
	name    string
	files   []string // patterns of the name of a mapped file
	symbol  string   // which the file exports, or it is not this; "" = there is no more than the name to go by
	runtime string   // the file is a runtime of this language, whose programs need not use its TLS
}

// implementations is the table of names behind the reasons.
func implementations() []implementation {
	return []implementation{
		{"TLS (JSSE)", []string{"libjvm.so"}, "", "Java"},
		// Firefox has all of NSS in libnss3.so. Elsewhere that file only encrypts.
		{"NSS", []string{"libssl3.so", "libnss3.so"}, "SSL_ImportFD", ""},
		{"TLS (OTP's ssl)", []string{"beam.smp", "beam.*.smp"}, "", "Erlang"},
		{"BoringSSL inside netty-tcnative", []string{"libnetty_tcnative*.so*"}, "", ""},
		{"BoringSSL inside Conscrypt", []string{"libconscrypt*.so*"}, "", ""},
		{"BoringSSL inside Mono", []string{"libmono-btls-shared.so"}, "", ""},
		{"Mbed TLS", []string{"libmbedtls.so*"}, "mbedtls_ssl_read", ""},
		{"wolfSSL", []string{"libwolfssl.so*"}, "wolfSSL_read", ""},
		{"s2n-tls", []string{"libs2n.so*"}, "s2n_recv", ""},
		{"rustls (C interface)", []string{"librustls.so*", "librustls_ffi.so*"}, "rustls_connection_read", ""},
		{"Botan", []string{"libbotan-*.so*"}, "", ""},
		{"MatrixSSL", []string{"libmatrixssl.so*", "libssl_s.so*"}, "", ""},
	}
}

// hint is what only the name of a mapped file says. It is told as that, and the search goes on.
type hint struct{ file, text string }

// known sorts the mapped files with names of libraries without probes by what there is to go by.
func (e *Explainer) known(s *sight, pid uint32, mappings []mapping) {
	for _, impl := range implementations() {
		for _, m := range mappings {
			file := path.Base(m.path)
			named := slices.ContainsFunc(impl.files, func(pattern string) bool {
				ok, _ := path.Match(pattern, file)
				return ok
			})
			if !named {
				continue
			}
			switch there, readable := e.exports(pid, m, impl.symbol); {
			case there:
				add(&s.others, impl.name)
			case readable:
			case impl.runtime != "":
				s.hint(file, fmt.Sprintf("it runs %s, whose own %s is not decoded yet", impl.runtime, impl.name))
			default:
				s.hint(file, fmt.Sprintf("it maps %s, by its name %s, which is not decoded yet", file, impl.name))
			}
		}
	}
}

func (s *sight) hint(file, text string) {
	if h := (hint{file, text}); !slices.Contains(s.hints, h) {
		s.hints = append(s.hints, h)
	}
}

// exports reports whether a mapped file exports a function, and whether that can be told: it cannot where the file is
// not to be read, or where no function is known.
func (e *Explainer) exports(pid uint32, m mapping, symbol string) (there, readable bool) {
	if symbol == "" {
		return false, false
	}
	f, err := openMapped(e.Proc, pid, m)
	if err != nil {
		return false, false
	}
	defer f.Close()
	at, err := stampOf(f)
	if err != nil {
		return false, false
	}
	facts, err := e.Cache.library(f, at, Library{Name: symbol, Functions: []Function{{Symbol: symbol}}})
	if err != nil {
		return false, false
	}
	_, there = facts.Functions[symbol]
	return there, true
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
