package target

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// Uncovered is a process that talks TLS and is not decoded.
type Uncovered struct {
	PID      uint32
	Process  string
	Reason   string // one sentence for a person
	TLSBytes uint64
}

// implementation is a TLS library that Spile knows of and does not decode.
type implementation struct {
	name  string
	files []string // patterns of the name of a mapped file
}

// implementations is the table of names behind the reasons. The first match names the reason.
func implementations() []implementation {
	return []implementation{
		{"Java's own TLS (JSSE)", []string{"libjvm.so"}},
		{"GnuTLS", []string{"libgnutls.so*"}},
		{"NSS", []string{"libssl3.so", "libnss3.so", "libnspr4.so"}},
		{"BoringSSL inside netty-tcnative", []string{"libnetty_tcnative*.so*"}},
		{"BoringSSL inside Conscrypt", []string{"libconscrypt*.so*"}},
		{"Mbed TLS", []string{"libmbedtls.so*"}},
		{"wolfSSL", []string{"libwolfssl.so*"}},
		{"s2n-tls", []string{"libs2n.so*"}},
		{"rustls (C interface)", []string{"librustls.so*", "librustls_ffi.so*"}},
		{"Botan", []string{"libbotan-*.so*"}},
		{"MatrixSSL", []string{"libmatrixssl.so*", "libssl_s.so*"}},
	}
}

// ProbeState says what became of the probes of a file: known = it was handed on, reason = why it is not attached.
type ProbeState func(id Identity) (known, attached bool, reason string)

// Explainer names reasons from facts. It never guesses: what it cannot tell it calls unknown.
type Explainer struct {
	Proc      string
	Cache     *Cache
	Libraries []Library
	Probe     ProbeState
}

// maxExplained bounds one answer; the processes with the most bytes come first.
const maxExplained = 256

// Explain turns the kernel's count of TLS bytes that nobody decoded, by process, into reasons, most bytes first.
func (e *Explainer) Explain(tlsBytes map[uint32]uint64) []Uncovered {
	list := make([]Uncovered, 0, len(tlsBytes))
	for pid, n := range tlsBytes {
		list = append(list, Uncovered{PID: pid, TLSBytes: n})
	}
	slices.SortFunc(list, func(a, b Uncovered) int {
		return cmp.Or(cmp.Compare(b.TLSBytes, a.TLSBytes), cmp.Compare(a.PID, b.PID))
	})
	list = list[:min(len(list), maxExplained)]
	for i := range list {
		list[i].Process, list[i].Reason = e.reason(list[i].PID)
	}
	return list
}

func (e *Explainer) reason(pid uint32) (process, reason string) {
	_, _, exe, err := exeOf(e.Proc, pid)
	if err != nil {
		if _, _, gone := readProcess(e.Proc, pid); gone != nil {
			return "", "the process has ended; what did its TLS is unknown"
		}
		return "", fmt.Sprintf("what does its TLS is unknown: %v", err)
	}
	process = path.Base(exe)
	mappings, err := e.mappings(pid)
	if err != nil {
		return process, fmt.Sprintf("what does its TLS is unknown: its memory map cannot be read (%v); give the agent CAP_SYS_PTRACE", reword(err))
	}
	decoded, problem := e.decodable(pid, mappings)
	if problem != "" {
		return process, problem
	}
	others := append(e.builtIn(pid), e.mapped(mappings)...)
	switch {
	case decoded != "" && len(others) > 0:
		return process, fmt.Sprintf("%s is decoded in this process, but it also carries %s, which is not decoded yet", decoded, strings.Join(others, " and "))
	case decoded != "":
		return process, fmt.Sprintf("%s is decoded in this process; these bytes passed before it was attached, through a function of the library that is not probed (a BIO, as openssl s_server -www uses), or on connections that could not be matched to it", decoded)
	case len(others) > 0:
		return process, fmt.Sprintf("TLS by %s is not decoded yet", strings.Join(others, " or "))
	}
	return process, "what does its TLS is unknown: no known library is mapped, and the executable shows no TLS functions (it may be linked statically and stripped)"
}

func (e *Explainer) mappings(pid uint32) ([]mapping, error) {
	f, err := os.Open(procPath(e.Proc, pid, "maps"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readMappings(f)
}

// decodable finds a library from the table and asks what became of its probes.
func (e *Explainer) decodable(pid uint32, mappings []mapping) (name, problem string) {
	for _, m := range mappings {
		for _, lib := range e.Libraries {
			if !lib.matches(m.path) {
				continue
			}
			handle, err := openMapped(e.Proc, pid, m)
			if err != nil {
				return "", fmt.Sprintf("%s is not decoded: %v", lib.Name, err)
			}
			file := Describe(e.Cache, lib, m.path, handle)
			handle.Close()
			if file.Problem != nil {
				return "", fmt.Sprintf("%s is not decoded: %v", lib.Name, file.Problem)
			}
			known, attached, reason := e.Probe(file.ID)
			switch {
			case attached:
				name = lib.Name
			case known:
				return "", fmt.Sprintf("%s is not decoded: %s", lib.Name, reason)
			default:
				return "", fmt.Sprintf("%s (%s) was only just found; it is attached within seconds", lib.Name, m.path)
			}
		}
	}
	return name, ""
}

// mapped names the known libraries among the mapped files.
func (e *Explainer) mapped(mappings []mapping) []string {
	var names []string
	for _, known := range implementations() {
		found := slices.ContainsFunc(mappings, func(m mapping) bool {
			return slices.ContainsFunc(known.files, func(pattern string) bool {
				ok, _ := path.Match(pattern, path.Base(m.path))
				return ok
			})
		})
		if found {
			names = append(names, known.name)
		}
	}
	return names
}

// builtIn names what the executable itself carries.
func (e *Explainer) builtIn(pid uint32) []string {
	f, err := os.Open(procPath(e.Proc, pid, "exe"))
	if err != nil {
		return nil
	}
	defer f.Close()
	s, err := stampOf(f)
	if err != nil {
		return nil
	}
	facts, err := e.Cache.executable(f, s)
	if err != nil {
		return nil
	}
	switch {
	case facts.Go != nil && facts.Go.TLS == Yes:
		return []string{"Go's crypto/tls (" + cmp.Or(facts.Go.Version, "before go1.18") + ")"}
	case facts.Go != nil && facts.Go.TLS == Unknown:
		return []string{"a Go program (" + cmp.Or(facts.Go.Version, "before go1.18") + ") that could not be searched for crypto/tls"}
	case facts.StaticTLS != "":
		return []string{"OpenSSL or BoringSSL linked into the executable"}
	}
	return nil
}
