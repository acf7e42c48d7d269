package target

import (
	"path"
)

// Function is a function to probe and the programs that go there.
type Function struct {
	Symbol   string
	Enter    string // BPF program at its first instruction
	Exit     string // BPF program at its return; "" = only the entry matters
	Required bool   // a file without it is not this library
}

// Library is one TLS library that Spile decodes.
type Library struct {
	Name      string
	Files     []string // patterns of the file name
	WellKnown []string // patterns of the paths where distributions put it
	Functions []Function
}

// Libraries is the table of what can be probed. A new library is one more entry.
func Libraries() []Library {
	return []Library{{
		// OpenSSL 1.0.2 to 3.x, LibreSSL and shared BoringSSL: the functions and their arguments are the same.
		Name: "OpenSSL",
		// Python wheels carry copies named after a hash: libssl-3e69114b.so.1.1.
		Files: []string{"libssl.so*", "libssl-*.so*"},
		WellKnown: []string{
			"/usr/lib/*-linux-gnu/libssl.so.*", "/lib/*-linux-gnu/libssl.so.*",
			"/usr/lib64/libssl.so.*", "/usr/lib/libssl.so.*", "/lib/libssl.so.*",
			"/usr/local/lib/libssl.so.*", "/usr/local/lib64/libssl.so.*",
		},
		Functions: []Function{
			{Symbol: "SSL_read", Enter: "ssl_read_enter", Exit: "ssl_read_exit", Required: true},
			{Symbol: "SSL_write", Enter: "ssl_write_enter", Exit: "ssl_write_exit", Required: true},
			{Symbol: "SSL_read_ex", Enter: "ssl_read_ex_enter", Exit: "ssl_read_ex_exit"},
			{Symbol: "SSL_write_ex", Enter: "ssl_write_ex_enter", Exit: "ssl_write_ex_exit"},
			{Symbol: "SSL_do_handshake", Enter: "ssl_handshake_enter", Exit: "ssl_handshake_exit"},
			{Symbol: "SSL_accept", Enter: "ssl_handshake_enter", Exit: "ssl_handshake_exit"},
			{Symbol: "SSL_connect", Enter: "ssl_handshake_enter", Exit: "ssl_handshake_exit"},
			{Symbol: "SSL_free", Enter: "ssl_free_enter"},
		},
	}}
}

// matches reports whether a file of this name may be the library.
func (l Library) matches(file string) bool {
	name := path.Base(file)
	for _, pattern := range l.Files {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

func (l Library) symbols() []string {
	names := make([]string, 0, len(l.Functions))
	for _, f := range l.Functions {
		names = append(names, f.Symbol)
	}
	return names
}

// Site is one place in a file where probes go.
type Site struct {
	Symbol string
	Offset uint64 // in the file
	Enter  string
	Exit   string
}

// sites pairs the functions of the library with where they are in a file. missing names a required one that is absent.
func (l Library) sites(offsets map[string]uint64) (found []Site, missing string) {
	for _, f := range l.Functions {
		offset, ok := offsets[f.Symbol]
		if !ok {
			if f.Required {
				return nil, f.Symbol
			}
			continue
		}
		found = append(found, Site{Symbol: f.Symbol, Offset: offset, Enter: f.Enter, Exit: f.Exit})
	}
	return found, ""
}
