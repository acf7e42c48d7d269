package target

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// oracle reads exported functions with the standard library, without any budget.
func oracle(t *testing.T, path string) map[string]uint64 {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{}
	for _, s := range symbols {
		if elf.ST_TYPE(s.Info) != elf.STT_FUNC || s.Section == elf.SHN_UNDEF {
			continue
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && s.Value >= p.Vaddr && s.Value < p.Vaddr+p.Filesz {
				want[s.Name] = s.Value - p.Vaddr + p.Off
			}
		}
	}
	return want
}

func open(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func keys(m map[string]uint64) []string {
	names := make([]string, 0, len(m)+2)
	for name := range m {
		names = append(names, name)
	}
	return append(names, "SSL_no_such_function", "")
}

// slow is a budget that a busy machine does not spend by accident.
func slow() Budget { return Budget{Bytes: 8 << 20, Time: 10 * time.Second} }

func TestExportedFunctionsOfTheSystemLibrary(t *testing.T) {
	path := systemLibrary(t)
	want := oracle(t, path)
	facts, err := InspectLibrary(open(t, path), keys(want), slow())
	if err != nil {
		t.Fatal(err)
	}
	same(t, facts.Functions, want)
	if facts.Functions["SSL_read"] == 0 || facts.Functions["SSL_write"] == 0 {
		t.Error("SSL_read or SSL_write is missing")
	}
	text, err := exec.Command("readelf", "-n", path).Output()
	if err == nil && (facts.BuildID == "" || !strings.Contains(string(text), facts.BuildID)) {
		t.Errorf("build id %q is not what readelf says", facts.BuildID)
	}
}

func same(t *testing.T, got, want map[string]uint64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d functions, want %d", len(got), len(want))
	}
	for name, offset := range want {
		if got[name] != offset {
			t.Errorf("%s at %#x, want %#x", name, got[name], offset)
		}
	}
}

// compile makes a library with functions that have OpenSSL's names.
func compile(t *testing.T, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "lib.c")
	code := "int data = 3; static int hidden(void) { return data; }\nint SSL_read(void) { return hidden(); }\nint SSL_write(void) { return 2; }\n"
	for _, name := range []string{"a", "b", "c", "SSL_read_ex", "SSL_free", "SSL_peek"} {
		code += "int " + name + "(void) { return 1; }\n"
	}
	if err := os.WriteFile(source, []byte(code), 0o644); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "libssl.so.9")
	if out, err := exec.Command("cc", append([]string{"-shared", "-fPIC", "-o", path, source}, flags...)...).CombinedOutput(); err != nil {
		t.Skipf("cc: %v: %s", err, out)
	}
	return path
}

func TestExportedFunctionsByEachHashTable(t *testing.T) {
	for _, style := range []string{"gnu", "sysv", "both"} {
		path := compile(t, "-Wl,--hash-style="+style, "-Wl,--build-id=0x00c0ffee")
		want := oracle(t, path)
		facts, err := InspectLibrary(open(t, path), keys(want), slow())
		if err != nil {
			t.Fatal(style, err)
		}
		same(t, facts.Functions, want)
		if facts.BuildID != "00c0ffee" {
			t.Errorf("%s: build id %q", style, facts.BuildID)
		}
		// What the dynamic linker can do without sections, so can we.
		image, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		clear(image[40:48])
		clear(image[58:64])
		facts, err = InspectLibrary(bytes.NewReader(image), keys(want), slow())
		if err != nil {
			t.Fatal(style, err)
		}
		same(t, facts.Functions, want)
	}
}

func TestNoBuildID(t *testing.T) {
	if id, err := BuildID(open(t, compile(t, "-Wl,--build-id=none")), slow()); id != "" || err != nil {
		t.Errorf("got %q, %v", id, err)
	}
}

// endless has a header that promises much, and gives zeros for ever.
type endless struct {
	head []byte
	wait time.Duration
	read int64
}

func (e *endless) ReadAt(p []byte, at int64) (int, error) {
	time.Sleep(e.wait)
	e.read += int64(len(p))
	clear(p)
	if at < int64(len(e.head)) {
		copy(p, e.head[at:])
	}
	return len(p), nil
}

// hugeTable makes a library that exports no function of OpenSSL, and whose table of symbols, or of their names, claims
// to have a terabyte.
func hugeTable(t *testing.T, kind elf.SectionType) []byte {
	t.Helper()
	image, err := os.ReadFile(compile(t))
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	names := int(le.Uint16(image[62:]))
	for i, at := 0, le.Uint64(image[40:]); i < int(le.Uint16(image[60:])); i, at = i+1, at+64 {
		loaded := le.Uint64(image[at+8:])&uint64(elf.SHF_ALLOC) != 0
		if loaded && le.Uint32(image[at+4:]) == uint32(elf.SHT_STRTAB) {
			offset, size := le.Uint64(image[at+24:]), le.Uint64(image[at+32:])
			copy(image[offset:], bytes.ReplaceAll(image[offset:offset+size], []byte("SSL_"), []byte("XXX_")))
		}
		if !loaded && i != names && le.Uint32(image[at+4:]) == uint32(kind) {
			le.PutUint64(image[at+32:], 1<<40)
			if kind == elf.SHT_SYMTAB {
				le.PutUint64(image[at+24:], uint64(len(image))+1)
			}
		}
	}
	return image
}

func TestBudgetOfBytes(t *testing.T) {
	for _, kind := range []elf.SectionType{elf.SHT_SYMTAB, elf.SHT_STRTAB} {
		src := &endless{head: hugeTable(t, kind)}
		f, err := InspectProgram(src, Libraries(), Budget{Bytes: 1 << 20, Time: time.Minute})
		if !errors.Is(err, ErrBudget) {
			t.Errorf("%v: got %+v, %v, want the budget", kind, f, err)
		}
		if src.read > 3<<20 { // for the head and for each entry
			t.Errorf("%v: %d bytes were read of three times 1 MiB allowed", kind, src.read)
		}
		if _, err := BuildID(&endless{head: src.head}, Budget{Bytes: blockSize - 1, Time: time.Minute}); !errors.Is(err, ErrBudget) {
			t.Errorf("%v: no bytes at all: %v", kind, err)
		}
	}
}

func TestBudgetOfTime(t *testing.T) {
	for _, kind := range []elf.SectionType{elf.SHT_SYMTAB, elf.SHT_STRTAB} {
		src := &endless{head: hugeTable(t, kind), wait: 5 * time.Millisecond}
		began := time.Now()
		f, err := InspectProgram(src, Libraries(), Budget{Bytes: 1 << 40, Time: 50 * time.Millisecond})
		if took := time.Since(began); took > time.Second {
			t.Errorf("%v: took %v of 50 ms allowed", kind, took)
		}
		if !errors.Is(err, ErrBudget) {
			t.Errorf("%v: got %+v, %v, want the budget", kind, f, err)
		}
	}
}

func TestNotELF(t *testing.T) {
	image, err := os.ReadFile(compile(t))
	if err != nil {
		t.Fatal(err)
	}
	class32 := bytes.Clone(image)
	class32[elf.EI_CLASS] = byte(elf.ELFCLASS32)
	for name, text := range map[string][]byte{
		"empty": nil, "short": image[:63], "script": []byte("INPUT(libssl.so.3)" + strings.Repeat(" ", 100)), "32-bit": class32,
	} {
		if _, err := InspectLibrary(bytes.NewReader(text), []string{"SSL_read"}, slow()); !errors.Is(err, ErrNotELF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzInspect(f *testing.F) {
	for _, path := range []string{"/usr/lib/x86_64-linux-gnu/libssl.so.3", "/bin/true"} {
		if text, err := os.ReadFile(path); err == nil {
			f.Add(text[:min(len(text), 8<<10)])
		}
	}
	f.Add([]byte(elf.ELFMAG))
	f.Fuzz(func(t *testing.T, image []byte) {
		b := Budget{Bytes: 1 << 20, Time: 50 * time.Millisecond}
		began := time.Now()
		r := io.NewSectionReader(bytes.NewReader(image), 0, int64(len(image)))
		facts, err := InspectLibrary(r, []string{"SSL_read", "SSL_write"}, b)
		for name, offset := range facts.Functions {
			if err == nil && offset > 1<<63 {
				t.Errorf("%s at %#x", name, offset)
			}
		}
		InspectProgram(r, Libraries(), b)
		BuildID(r, b)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestFunctionsOutsideCodeAreNone(t *testing.T) {
	dir := t.TempDir()
	source, path := filepath.Join(dir, "lib.s"), filepath.Join(dir, "libssl.so.9")
	code := ".data\n.globl SSL_read\n.type SSL_read,@function\nSSL_read: .quad 1\n.size SSL_read, 8\n" +
		".text\n.globl SSL_write\n.type SSL_write,@function\nSSL_write: nop\n.size SSL_write, 1\n"
	if err := os.WriteFile(source, []byte(code), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cc", "-shared", "-nostdlib", "-o", path, source).CombinedOutput(); err != nil {
		t.Skipf("cc: %v: %s", err, out)
	}
	f, err := InspectLibrary(open(t, path), []string{"SSL_read", "SSL_write"}, slow())
	if err != nil || len(f.Functions) != 1 || f.Functions["SSL_write"] == 0 {
		t.Errorf("%+v, %v: a probe on data would corrupt it", f, err)
	}
}
