package target

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// goProgram links a program as a Go toolchain would, and returns where it is.
func goProgram(t *testing.T, name, linker string) string {
	t.Helper()
	dir := t.TempDir()
	for file, text := range map[string]string{"go.mod": "module x\n", "main.go": "package main\n\nfunc main() { println(\"" + name + "\") }\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "x")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", linker, "-o", path)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// TestBuildIDOfGo: a program of a Go before 1.24 has no GNU build id (-B none makes the same today), but says its own.
func TestBuildIDOfGo(t *testing.T) {
	id := func(path string) string {
		t.Helper()
		id, err := BuildID(open(t, path), slow())
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	old := goProgram(t, "one", "-B none")
	out, err := exec.Command("go", "tool", "buildid", old).Output()
	if err != nil {
		t.Fatal(err)
	}
	said := strings.TrimSpace(string(out))
	if got, want := id(old), "go:"+said[strings.LastIndex(said, "/")+1:]; got != want || len(got) < 20 {
		t.Errorf("%q of a program whose Go build id is %q", got, said)
	}
	if again := id(goProgram(t, "one", "-B none")); again != id(old) {
		t.Errorf("the same program built again is %q, was %q", again, id(old))
	}
	if other := id(goProgram(t, "two", "-B none")); other == id(old) {
		t.Errorf("another program has the id %q too", other)
	}
	if gnu := id(goProgram(t, "one", "-B gobuildid")); len(gnu) != 40 || strings.Contains(gnu, ":") {
		t.Errorf("with both it is %q, want the GNU one", gnu)
	}
	for _, linker := range []string{"-B none -buildid=", "-B none -buildid=redacted"} {
		if got := id(goProgram(t, "one", linker)); got != "" {
			t.Errorf("%s: %q, which any program may have", linker, got)
		}
	}
}

func TestBuildIDsInNotes(t *testing.T) {
	note := func(name string, kind uint32, desc string) []byte {
		head := binary.LittleEndian.AppendUint32(nil, uint32(len(name)))
		head = binary.LittleEndian.AppendUint32(head, uint32(len(desc)))
		head = append(binary.LittleEndian.AppendUint32(head, kind), name...)
		return append(append(head, desc...), make([]byte, (4-len(desc)%4)%4)...)
	}
	const full = "aaaaaaaaaaaaaaaaaaaa/bbbbbbbbbbbbbbbbbbbb/cccccccccccccccccccc/dd-dddddddddd_dddddd"
	gnu, golang := note("GNU\x00", 3, "12345678"), note("Go\x00\x00", 4, full)
	for name, c := range map[string]struct {
		notes    []byte
		gnu, own string
	}{
		"GNU":              {gnu, hex.EncodeToString([]byte("12345678")), ""},
		"Go":               {golang, "", "go:dd-dddddddddd_dddddd"},
		"both":             {append(bytes.Clone(golang), gnu...), hex.EncodeToString([]byte("12345678")), "go:dd-dddddddddd_dddddd"},
		"cut":              {golang[:len(golang)-5], "", ""},
		"ABI tag first":    {append(note("GNU\x00", 1, "0000111122223333"), golang...), "", "go:dd-dddddddddd_dddddd"},
		"two parts":        {note("Go\x00\x00", 4, "aaaaaaaaaaaaaaaaaaaa/dddddddddddddddddddd"), "", ""},
		"letters":          {note("Go\x00\x00", 4, strings.Replace(full, "dd-", "d d", 1)), "", ""},
		"another type":     {note("Go\x00\x00", 3, full), "", ""},
		"name of no bytes": {note("", 4, full), "", ""},
	} {
		if g, own := buildIDs(c.notes); g != c.gnu || own != c.own {
			t.Errorf("%s: %q and %q, want %q and %q", name, g, own, c.gnu, c.own)
		}
	}
}
