package target

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestClassX86(t *testing.T) {
	for code, want := range map[string]struct {
		name  string
		class Class
	}{
		"\x55":                                   {"push", Emulated},   // push %rbp
		"\x41\x57":                               {"push", Emulated},   // push %r15
		"\x40\x55":                               {"push", SingleStep}, // with a prefix that the kernel does not take
		"\x66\x55":                               {"push", SingleStep}, // push %bp
		"\x6a\x01":                               {"push", SingleStep}, // of a constant
		"\xff\x35\x00\x00\x00\x00":               {"push", SingleStep}, // of memory
		"\x90":                                   {"nop", Emulated},
		"\x66\x90":                               {"nop", Emulated},
		"\x0f\x1f\x44\x00\x00":                   {"nop", Emulated},
		"\x0f\x1f\x84\x00\x00\x00\x00\x00":       {"nop", Emulated},
		"\x0f\x1f\x45\x00":                       {"nop", SingleStep}, // not one of the kernel's
		"\xf3\x90":                               {"pause", SingleStep},
		"\x41\x90":                               {"xchg", SingleStep}, // %r8,%rax
		"\xe8\x00\x00\x00\x00":                   {"call", Emulated},
		"\xe9\x00\x00\x00\x00":                   {"jmp", Emulated},
		"\xeb\x00":                               {"jmp", Emulated},
		"\xf2\xe9\x00\x00\x00\x00":               {"jmp", Emulated}, // bnd
		"\xff\xe0":                               {"jmp", SingleStep},
		"\xff\x25\x00\x00\x00\x00":               {"jmp", SingleStep}, // as in a PLT
		"\xff\xd0":                               {"call", SingleStep},
		"\x74\x10":                               {"je", Emulated},
		"\x0f\x8f\x00\x00\x00\x00":               {"jg", Emulated},
		"\xe3\x00":                               {"jrcxz", SingleStep},
		endbr64 + "\x55":                         {"endbr64", SingleStep},
		"\x48\x83\xec\x18":                       {"sub", SingleStep},
		"\xc3":                                   {"ret", SingleStep},
		"\x48\x85\xff":                           {"test", SingleStep},
		"\x64\x48\x8b\x04\x25\x28\x00\x00\x00":   {"mov", SingleStep},
		"\x06":                                   {"", Unknown}, // not in 64-bit mode
		"":                                       {"", Unknown},
		"\xe8\x00":                               {"", Unknown}, // cut
		"\x48\x83\xec":                           {"", Unknown},
		strings.Repeat("\x66", maxInstruction):   {"", Unknown},
		strings.Repeat("\x2e", maxInstruction-1): {"", Unknown},
		"\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x74\x00": {"je", Emulated},
	} {
		name, class := classX86([]byte(code))
		if name != want.name || class != want.class {
			t.Errorf("% x: %q, %s, want %q, %s", code, name, class, want.name, want.class)
		}
	}
}

func TestClassARM64(t *testing.T) {
	for word, want := range map[uint32]Class{
		0x14000001: Emulated,   // b
		0x97fffffe: Emulated,   // bl
		0x54000040: Emulated,   // b.eq
		0xb4000040: Emulated,   // cbz x0
		0x37000040: Emulated,   // tbnz w0, #0
		0x10000000: Emulated,   // adr x0
		0xb0000000: Emulated,   // adrp x0
		0x58000040: Emulated,   // ldr x0, literal
		0x98000040: Emulated,   // ldrsw x0, literal
		0xd65f03c0: Emulated,   // ret
		0xd63f0100: Emulated,   // blr x8
		0xd503201f: Emulated,   // nop
		0xa9bf7bfd: SingleStep, // stp x29, x30, [sp, #-16]!
		0xd503233f: SingleStep, // paciasp
		0xf81f0ffe: SingleStep, // str x30, [sp, #-16]!, as Go begins
		0xd100c3ff: SingleStep, // sub sp, sp, #48
		0xf9400b90: SingleStep, // ldr x16, [x28, #16]
	} {
		code := binary.LittleEndian.AppendUint32(nil, word)
		if name, class := classARM64(code); class != want || name == "" {
			t.Errorf("%#x: %q, %s, want %s", word, name, class, want)
		}
	}
	if _, class := classARM64([]byte{1, 2, 3}); class != Unknown {
		t.Errorf("a cut word: %s", class)
	}
}

// disassembled is what objdump says of a function: the instruction at each offset in the file, and the targets of calls.
func disassembled(t *testing.T, path string, where ...string) (at map[uint64]string, calls []uint64) {
	t.Helper()
	out, err := exec.Command("objdump", append([]string{"-d", "-F", "--no-show-raw-insn", path}, where...)...).Output()
	if err != nil {
		t.Fatalf("objdump: %v", err)
	}
	// 0000000000035430 <SSL_read@@OPENSSL_3.0.0> (File Offset: 0x35430):
	shift, at := uint64(0), map[uint64]string{}
	head := regexp.MustCompile(`^([0-9a-f]+) <.*\(File Offset: 0x([0-9a-f]+)\):`)
	line := regexp.MustCompile(`^\s*([0-9a-f]+):\t(\S+)\s*(\S*)`)
	number := func(s string) uint64 { n, _ := strconv.ParseUint(s, 16, 64); return n }
	for text := range strings.Lines(string(out)) {
		if m := head.FindStringSubmatch(text); m != nil {
			shift = number(m[2]) - number(m[1])
		}
		if m := line.FindStringSubmatch(text); m != nil {
			at[number(m[1])+shift] = m[2]
			if m[2] == "call" {
				calls = append(calls, number(m[3])+shift)
			}
		}
	}
	return at, calls
}

// describedAt reads the library of the table that matches a path.
func describedAt(t *testing.T, path string) File {
	t.Helper()
	for _, lib := range Libraries() {
		if lib.named(path) {
			f := Describe(NewCache(slow()), lib, path, open(t, path))
			if f.Problem != nil {
				t.Fatal(f.Problem)
			}
			return f
		}
	}
	t.Fatalf("%s is in no entry of the table", path)
	return File{}
}

// checkClasses compares with what objdump says of the same place.
func checkClasses(t *testing.T, f File, path string) {
	t.Helper()
	for _, s := range f.Sites {
		at, _ := disassembled(t, path, "--disassemble="+s.Symbol)
		said := at[s.Offset]
		if s.Code == "cmp" {
			said = strings.TrimRight(said, "bwlq") // the size of an operand in memory
		}
		cheap := said == "push" || said == "nop" || said == "call" || said == "jmp" || strings.HasPrefix(said, "j")
		if said != s.Code || cheap != (s.Class == Emulated) {
			t.Errorf("%s at %#x: %q, %s; objdump says %q", s.Symbol, s.Offset, s.Code, s.Class, said)
		}
	}
}

// TestRealLibraries judges the machine's own files, with objdump as the second opinion.
func TestRealLibraries(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the code is of amd64")
	}
	for _, lib := range Libraries() {
		for _, pattern := range lib.WellKnown {
			paths, _ := filepath.Glob(pattern)
			for _, path := range paths {
				t.Run(filepath.Base(path), func(t *testing.T) {
					f := describedAt(t, path)
					checkClasses(t, f, path)
					checkInner(t, f, path)
				})
			}
		}
	}
}

func checkInner(t *testing.T, f File, path string) {
	t.Helper()
	inner := map[string]*Place{}
	for _, s := range f.Sites {
		inner[s.Symbol] = s.Inner
		if s.Inner == nil {
			continue
		}
		_, calls := disassembled(t, path, "--disassemble="+s.Symbol)
		if !slices.Contains(calls, s.Inner.Offset) && !slices.Contains(calls, s.Inner.Offset-4) {
			t.Errorf("%s does not call %#x, but %#x", s.Symbol, s.Inner.Offset, calls)
		}
		want := strings.ToLower(strings.TrimSuffix(s.Symbol, "_ex")) + "_ex_"
		if s.Inner.Class != Emulated || s.Inner.Enter != want+"enter" || s.Inner.Exit != want+"exit" {
			t.Errorf("%s: %+v", s.Symbol, s.Inner)
		}
	}
	for _, of := range []string{"SSL_read", "SSL_write"} {
		if a, b := inner[of], inner[of+"_ex"]; (a == nil) != (b == nil) || a != nil && *a != *b {
			t.Errorf("%s: %+v and %+v", of, a, b)
		}
	}
}

// TestDebian12 holds what probing costs on the distribution that most measurements were made on.
func TestDebian12(t *testing.T) {
	path := systemLibrary(t)
	out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", "libssl3").Output()
	if err != nil || !strings.HasPrefix(string(out), "3.0.") || runtime.GOARCH != "amd64" {
		t.Skip("not Debian 12 on amd64")
	}
	for _, s := range describedAt(t, path).Sites {
		switch s.Symbol {
		case "SSL_read", "SSL_write", "SSL_read_ex", "SSL_write_ex":
			if s.Class != SingleStep || s.Inner == nil || s.Inner.Class != Emulated {
				t.Errorf("%s", s.Explain())
			}
			if s.Enter != strings.ToLower(s.Symbol)+"_enter" {
				t.Errorf("%s is entered with %s", s.Symbol, s.Enter)
			}
		}
	}
}

// TestRealNode judges a program that carries OpenSSL, written by another compiler with frame pointers.
func TestRealNode(t *testing.T) {
	path, err := exec.LookPath("node")
	if err != nil || runtime.GOARCH != "amd64" {
		t.Skip("no node of amd64")
	}
	handle, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	f, found := DescribeProgram(NewCache(slow()), Libraries(), path, handle)
	if !found || f.Problem != nil {
		t.Skipf("it carries no TLS: %v", f.Problem)
	}
	checkClasses(t, f, path)
	for _, s := range f.Sites {
		// A push is as cheap as it gets: there is nothing to look for inside.
		if s.Class == Emulated && (s.Inner != nil || s.NoInner != "") {
			t.Errorf("%s", s.Explain())
		}
		// Each TLS record that node writes passes there.
		if s.Symbol == "BIO_write" && s.Class != Emulated {
			t.Errorf("%s", s.Explain())
		}
	}
	if lines := f.Explain(); len(lines) != len(f.Sites) || !strings.HasPrefix(lines[0], "SSL_read: ") {
		t.Errorf("%q", lines)
	}
}

// TestGoClass: since Go 1.21 a frame begins with a push of the frame pointer on amd64.
func TestGoClass(t *testing.T) {
	path := goBuild(t, goSource(t), "CGO_ENABLED=0")
	f, found := DescribeProgram(NewCache(slow()), Libraries(), path, open(t, path))
	if !found || f.Problem != nil {
		t.Fatal(f.Problem)
	}
	for _, s := range f.Sites {
		want := map[string]Class{"amd64": Emulated, "arm64": SingleStep}[runtime.GOARCH]
		if s.Class != want || s.Inner != nil || s.NoInner != "" {
			t.Errorf("%s", s.Explain())
		}
		// The kernel simulates a return on arm64, and steps over it on amd64.
		ret := map[string]Class{"amd64": SingleStep, "arm64": Emulated}[runtime.GOARCH]
		if len(s.Returns) > 0 && (s.ReturnClass != ret || !strings.Contains(s.Explain(), "returns: ret, "+string(ret))) {
			t.Errorf("%s", s.Explain())
		}
	}
}
