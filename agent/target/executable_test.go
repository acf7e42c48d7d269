package target

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func describe(t *testing.T, path string) (File, bool) {
	t.Helper()
	return DescribeProgram(NewCache(slow()), Libraries(), path, open(t, path))
}

// sharedOpenSSL reports whether a node was built like Debian's.
func sharedOpenSSL(node string) bool {
	out, err := exec.Command(node, "-p", "process.config.variables.node_shared_openssl").Output()
	return err == nil && strings.TrimSpace(string(out)) == "true"
}

func TestNodeCarriesOpenSSL(t *testing.T) {
	path := "/usr/bin/node"
	if _, err := os.Stat(path); err != nil {
		path = "../../bin/matrix/node_modules/node/bin/node" // where deploy/packages.sh puts it
	}
	if _, err := os.Stat(path); err != nil {
		t.Skip("node is not installed")
	}
	if sharedOpenSSL(path) {
		t.Skip("this node has its OpenSSL in a shared library")
	}
	f, found := describe(t, path)
	if !found || f.Problem != nil || f.Handle == nil || f.ID.Ino == 0 {
		t.Fatalf("%+v", f)
	}
	want := oracle(t, path)
	var names []string
	for _, s := range f.Sites {
		names = append(names, s.Symbol)
		if skip := s.Offset - want[s.Symbol]; skip != s.Ahead && (skip != 4 || s.Code != "push") || len(s.Returns) > 0 || s.Enter == "" {
			t.Errorf("%+v, the function is at %#x", s, want[s.Symbol])
		}
	}
	for _, name := range []string{"SSL_read", "SSL_write", "SSL_do_handshake", "SSL_free", "BIO_write"} {
		if !slices.Contains(names, name) {
			t.Errorf("%s is not among %v", name, names)
		}
	}
}

// cProgram makes a program that has functions with OpenSSL's names in itself.
func cProgram(t *testing.T, code string, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	source, path := filepath.Join(dir, "main.c"), filepath.Join(dir, "talks")
	if err := os.WriteFile(source, []byte(code), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cc", append([]string{"-O1", "-o", path, source}, flags...)...).CombinedOutput(); err != nil {
		t.Skipf("cc: %v: %s", err, out)
	}
	return path
}

const carries = `
static __attribute__((noinline)) int SSL_read(int n) { return n * 3; }
__attribute__((noinline)) int SSL_write(int n) { return n * 5; }
__attribute__((noinline)) int not_SSL_free(int n) { return n * 7; }
int main(int n, char **v) { return SSL_read(n) + SSL_write(n) + not_SSL_free(n); }
`

func TestSymbolTable(t *testing.T) {
	for _, flags := range [][]string{{"-no-pie"}, {"-pie", "-fPIE"}, {"-static"}} {
		path := cProgram(t, carries, flags...)
		f, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		symbols, err := f.Symbols()
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]uint64{}
		for _, s := range symbols {
			for _, p := range f.Progs {
				if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 && s.Value >= p.Vaddr && s.Value < p.Vaddr+p.Filesz {
					want[s.Name] = s.Value - p.Vaddr + p.Off
				}
			}
		}
		f.Close()
		file, found := describe(t, path)
		if !found || file.Problem != nil || len(file.Sites) != 2 {
			t.Fatalf("%v: %+v", flags, file)
		}
		for _, s := range file.Sites {
			if want[s.Symbol] == 0 || s.Offset != want[s.Symbol] {
				t.Errorf("%v: %s at %#x, want %#x", flags, s.Symbol, s.Offset, want[s.Symbol])
			}
		}
		if out, err := exec.Command("strip", path).CombinedOutput(); err != nil {
			t.Fatalf("strip: %v: %s", err, out)
		}
		if file, found := describe(t, path); found {
			t.Errorf("%v, stripped: %+v", flags, file)
		}
	}
}

func TestProgramsThatCarryNothing(t *testing.T) {
	library := compile(t)
	// It calls SSL_read of a shared library: the symbol is there, the function is not.
	caller := cProgram(t, "int SSL_read(void); int SSL_write(void); int main(void) { return SSL_read() + SSL_write(); }",
		library, "-Wl,-rpath,"+filepath.Dir(library))
	half := cProgram(t, "int SSL_read(int n) { return n; } int main(int n, char **v) { return SSL_read(n); }")
	for _, path := range []string{caller, half, "/usr/bin/python3", "/bin/true", "/etc/passwd"} {
		if f, found := describe(t, path); found {
			t.Errorf("%s: %+v", path, f)
		}
	}
	source := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module silent\n", "main.go": "package main\n\nfunc main() { println(1) }\n"} {
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if f, found := describe(t, goBuild(t, source, "CGO_ENABLED=0")); found {
		t.Errorf("a Go program without TLS: %+v", f)
	}
}

func TestGoProgramIsDescribed(t *testing.T) {
	path := goBuild(t, goSource(t), "CGO_ENABLED=0", "-ldflags=-s -w")
	time.Sleep(clockStep) // what was written a moment ago is not remembered
	cache, handle := NewCache(slow()), open(t, path)
	f, found := DescribeProgram(cache, Libraries(), path, handle)
	if !found || f.Problem != nil || f.Handle != handle || f.Path != path || len(f.Sites) != len(goSymbols(t)) {
		t.Fatalf("%+v", f)
	}
	for _, s := range f.Sites {
		if s.Enter == "" || (s.Exit == "") != (len(s.Returns) == 0) || slices.Contains(s.Returns, s.Offset) {
			t.Errorf("%+v", s)
		}
	}
	// A file is read once, whoever asks: what is remembered is told.
	for k, e := range cache.entries {
		e.facts.BuildID = "remembered"
		cache.entries[k] = e
	}
	again, found := DescribeProgram(cache, Libraries(), path, open(t, path))
	if !found || len(again.Sites) != len(f.Sites) || again.ID.BuildID != "remembered" {
		t.Errorf("it was read again: %+v", again)
	}
	// Garbage of the same size, with the time set back as cp -p does, is another file.
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, info.Size()), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if changed, found := DescribeProgram(cache, Libraries(), path, open(t, path)); found {
		t.Errorf("it was not read again: %+v", changed)
	}
}

func TestProblemIsOneLine(t *testing.T) {
	native(t)
	p := tiny126()
	p.module = false
	path := filepath.Join(t.TempDir(), "talks")
	if err := os.WriteFile(path, p.build(), 0o755); err != nil {
		t.Fatal(err)
	}
	f, found := describe(t, path)
	if !found || f.Handle != nil || len(f.Sites) > 0 || f.Problem == nil || f.Library != "Go crypto/tls" {
		t.Fatalf("%+v", f)
	}
	if text := f.Problem.Error(); strings.Contains(text, "\n") || !strings.Contains(text, path) || !strings.Contains(text, "where its code begins") {
		t.Error(text)
	}
}

// TestSpentIsAskedAgain: a host that was short of processors for a moment must not hide a program for ever.
func TestSpentIsAskedAgain(t *testing.T) {
	cache, key := NewCache(slow()), cacheKey{library: "x"}
	reads := 0
	ask := func(err error) {
		cache.get(key, func() (Facts, error) { reads++; return Facts{Carried: []Carried{{Problem: err}}}, nil })
	}
	ask(ErrBudget)
	ask(nil)
	if reads != 1 {
		t.Errorf("read %d times within a minute", reads)
	}
	e := cache.entries[key]
	e.until = time.Now().Add(-time.Second)
	cache.entries[key] = e
	ask(nil)
	ask(nil)
	if reads != 2 || cache.entries[key].spent() {
		t.Errorf("read %d times after a minute", reads)
	}
}

func TestBudgetOfOneEntryIsNotTheOthers(t *testing.T) {
	image, err := os.ReadFile(goBuild(t, goSource(t), "CGO_ENABLED=0"))
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	for i, at := 0, le.Uint64(image[40:]); i < int(le.Uint16(image[60:])); i, at = i+1, at+64 {
		if le.Uint32(image[at+4:]) == uint32(elf.SHT_STRTAB) && i != int(le.Uint16(image[62:])) {
			le.PutUint64(image[at+32:], 1<<40)
		}
	}
	f, err := InspectProgram(&endless{head: image}, Libraries(), Budget{Bytes: 16 << 20, Time: time.Minute})
	if err != nil || len(f.Carried) != 1 || len(f.Carried[0].Sites) != len(goSymbols(t)) {
		t.Errorf("names without end hide the line table: %+v, %v", f, err)
	}
}
