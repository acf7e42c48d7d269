package probe

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// TestProbeBehindEndbr puts entry and return probes behind the endbr64 of a library built with control-flow protection:
// every call must fire at both ends, and return to where it came from with its value.
func TestProbeBehindEndbr(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("endbr64 is an instruction of amd64")
	}
	dir := t.TempDir()
	source, path := filepath.Join(dir, "lib.c"), filepath.Join(dir, "libssl.so.9")
	code := "static int depth(int n) { return n <= 0 ? 0 : 1 + depth(n - 1); }\n" +
		"void SSL_read(void) {} void SSL_write(void) {} void SSL_free(void *s) {}\n" +
		"int SSL_do_handshake(void *s) { return depth(5); }\n"
	if err := os.WriteFile(source, []byte(code), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-O0", "-fcf-protection=full", "-o", path, source).CombinedOutput(); err != nil {
		t.Skipf("cc: %v: %s", err, out)
	}
	for _, multi := range []bool{true, false} {
		programs := newCounting(t, multi)
		c := newCaller(t, path)
		r := registry(t, programs, DefaultTimes())
		r.Use(c.process(), described(t, path))
		c.sum(t, "SSL_do_handshake", 11, 55)
		c.call(t, 3)
		for program, want := range map[string]uint64{"ssl_handshake_enter": 11, "ssl_handshake_exit": 11, freed: 3} {
			if n := programs.hits(t, program); n != want {
				t.Errorf("multi=%v: %s ran %d times in %d calls", multi, program, n, want)
			}
		}
	}
}
