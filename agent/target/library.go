package target

import (
	"path"
)

// Function is a function to probe and the programs that go there.
type Function struct {
	Symbol   string
	Enter    string // BPF program at its first instruction
	Exit     string // BPF program at its return; "" = only the entry matters
	Unless   string // not probed in a file that has this function too, which it calls: each byte is read once
	Required bool   // a file without it is not this library
}

// Where says where a library is found.
type Where uint8

const (
	SharedObject Where = iota // by the name of a mapped file
	Executable                // in what a program itself exports, or carries in its symbol table
	GoProgram                 // in a Go program, by its line table
)

// Library is one TLS library that Spile decodes.
type Library struct {
	Name      string
	Where     Where
	OnDemand  bool     // probed only in a process that asks for it (Watcher.Unbound)
	Beside    []string // patterns of the names of files: a process that maps one asks at once
	Files     []string // patterns of the file name
	WellKnown []string // patterns of the paths where distributions put it
	Functions []Function
}

// openSSL is what OpenSSL 1.0.2 to 3.x, LibreSSL and BoringSSL have in common: the functions and their arguments.
func openSSL() []Function {
	return []Function{
		{Symbol: "SSL_read", Enter: "ssl_read_enter", Exit: "ssl_read_exit", Required: true},
		{Symbol: "SSL_write", Enter: "ssl_write_enter", Exit: "ssl_write_exit", Required: true},
		{Symbol: "SSL_read_ex", Enter: "ssl_read_ex_enter", Exit: "ssl_read_ex_exit"},
		{Symbol: "SSL_write_ex", Enter: "ssl_write_ex_enter", Exit: "ssl_write_ex_exit"},
		{Symbol: "SSL_write_ex2", Enter: "ssl_write_ex2_enter", Exit: "ssl_write_ex_exit"}, // since 3.3
		{Symbol: "SSL_do_handshake", Enter: "ssl_handshake_enter", Exit: "ssl_handshake_exit"},
		{Symbol: "SSL_accept", Enter: "ssl_handshake_enter", Exit: "ssl_handshake_exit"},
		{Symbol: "SSL_connect", Enter: "ssl_handshake_enter", Exit: "ssl_handshake_exit"},
		{Symbol: "SSL_free", Enter: "ssl_free_enter"},
	}
}

// Libraries is the table of what can be probed. A new library is one more entry.
func Libraries() []Library {
	return []Library{{
		Name: "OpenSSL",
		// Python wheels carry copies named after a hash: libssl-3e69114b.so.1.1.
		Files: []string{"libssl.so*", "libssl-*.so*"},
		WellKnown: []string{
			"/usr/lib/*-linux-gnu/libssl.so.*", "/lib/*-linux-gnu/libssl.so.*",
			"/usr/lib64/libssl.so.*", "/usr/lib/libssl.so.*", "/lib/libssl.so.*",
			"/usr/local/lib/libssl.so.*", "/usr/local/lib64/libssl.so.*",
		},
		Functions: openSSL(),
	}, {
		// node exports the functions of its own OpenSSL to its addons.
		Name:      "OpenSSL or BoringSSL in the executable",
		Where:     Executable,
		Functions: append(openSSL(), bioWrite()),
	}, {
		// 3.x: the calls have the shape of SSL_read, SSL_write and SSL_do_handshake, with a session in place of the SSL.
		Name:  "GnuTLS",
		Files: []string{"libgnutls.so*"},
		WellKnown: []string{
			"/usr/lib/*-linux-gnu/libgnutls.so.*", "/lib/*-linux-gnu/libgnutls.so.*",
			"/usr/lib64/libgnutls.so.*", "/usr/lib/libgnutls.so.*", "/lib/libgnutls.so.*",
		},
		Functions: []Function{
			{Symbol: "gnutls_record_recv", Enter: "ssl_read_enter", Exit: "ssl_read_exit", Required: true},
			// Since 3.6.3. There gnutls_record_send is a jump to it.
			{Symbol: "gnutls_record_send2", Enter: "ssl_write_enter", Exit: "ssl_write_exit"},
			{Symbol: "gnutls_record_send", Enter: "ssl_write_enter", Exit: "ssl_write_exit", Unless: "gnutls_record_send2", Required: true},
			{Symbol: "gnutls_handshake", Enter: "ssl_handshake_enter", Exit: "ssl_handshake_exit"},
			{Symbol: "gnutls_deinit", Enter: "ssl_free_enter"},
		},
	}, {
		// What an SSL writes into a memory BIO is found again at the socket: see bpf/doc.go.
		Name:      "OpenSSL's libcrypto",
		OnDemand:  true,
		Beside:    []string{"_ssl.cpython-*.so", "_ssl.abi3.so", "_ssl.so", "libnode.so*"}, // asyncio and node keep TLS in memory
		Files:     []string{"libcrypto.so*", "libcrypto-*.so*"},
		Functions: []Function{bioWrite()},
	}, {
		Name:  "Go crypto/tls",
		Where: GoProgram,
		Functions: []Function{
			{Symbol: "crypto/tls.(*Conn).Read", Enter: "go_read_enter", Exit: "go_read_exit", Required: true},
			{Symbol: "crypto/tls.(*Conn).Write", Enter: "go_write_enter", Required: true},
			// Not Handshake: every Read and Write passes through that.
			{Symbol: "crypto/tls.(*Conn).clientHandshake", Enter: "go_handshake_enter", Exit: "go_handshake_exit"},
			{Symbol: "crypto/tls.(*Conn).serverHandshake", Enter: "go_handshake_enter", Exit: "go_handshake_exit"},
		},
	}}
}

func bioWrite() Function { return Function{Symbol: "BIO_write", Enter: "bio_write_enter"} }

// matches reports whether a mapped file of this name may be the library, and is to be probed wherever it is found.
func (l Library) matches(file string) bool { return !l.OnDemand && l.named(file) }

// named reports whether a file has a name of the library.
func (l Library) named(file string) bool {
	name := path.Base(file)
	for _, pattern := range l.Files {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

// besides reports whether a process that maps a file of this name asks for the library.
func (l Library) besides(file string) bool {
	name := path.Base(file)
	for _, pattern := range l.Beside {
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

// Class says how the kernel executes the instruction under a probe, which decides what a hit costs.
type Class string

const (
	Emulated   Class = "emulated"    // by the kernel itself: push, nop, jmp, jcc, call
	SingleStep Class = "single_step" // out of line, with a debug trap: 5 to 6 times as dear
	Unknown    Class = "unknown"
)

// Place is where in a file a probe may go, other than at the entry of a function that has a name.
type Place struct {
	Name   string // for a person: "call target of SSL_read_ex"
	Offset uint64 // in the file
	Class  Class
	Enter  string // BPF program: the arguments may differ from those of the named function
	Exit   string
}

// Site is one place in a file where probes go.
type Site struct {
	Symbol string
	Offset uint64 // in the file
	Class  Class  // of the instruction at Offset
	Ahead  uint64 // bytes from the function's entry to Offset, where every call passes it (ahead.go)
	Code   string // that instruction, for a person: "push"
	Enter  string
	Exit   string
	// Inner is a cheaper place that every call of the function passes, as its code says; nil where there is none. It is
	// taken once live calls have shown there what Offset showed.
	Inner *Place
	// NoInner says why none was found, where Offset is dear and one was looked for.
	NoInner string
	// Returns are the offsets of its return instructions. Where there are some, Exit goes there like an entry: a return
	// probe replaces the return address on the stack, and Go's runtime, which moves stacks, does not survive that.
	Returns []uint64
	// ReturnClass is the Class of these instructions.
	ReturnClass Class
}

// sites pairs the functions of the library with where they are in a file. missing names a required one that is absent.
func (l Library) sites(places map[string]Place, inside, ahead map[string]Inside) (found []Site, missing string) {
	for _, f := range l.Functions {
		place, ok := places[f.Symbol]
		if _, other := places[f.Unless]; other && f.Unless != "" {
			continue
		}
		if !ok {
			if f.Required {
				return nil, f.Symbol
			}
			continue
		}
		site := Site{Symbol: f.Symbol, Offset: place.Offset, Class: place.Class, Code: place.Name, Enter: f.Enter, Exit: f.Exit}
		if in, dear := ahead[f.Symbol]; dear && f.Exit == "" {
			site.NoInner = in.Refused
			if in.Refused == "" {
				site.Offset, site.Class, site.Code, site.Ahead = in.Offset, in.Class, in.Name, in.Offset-place.Offset
			}
		}
		if in, ok := inside[f.Symbol]; ok {
			site.NoInner = in.Refused
			if in.Refused == "" {
				inner := in.Place // a copy of its own: what is cached is shared
				site.Inner = &inner
			}
		}
		found = append(found, site)
	}
	return found, ""
}
