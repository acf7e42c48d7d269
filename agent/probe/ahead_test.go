package probe

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spile/spile/agent/target"
)

// memoryWrites writes pieces of many lengths into a memory BIO, some of which the function turns away at its first branch.
const memoryWrites = `
import ctypes, sys
lib = ctypes.CDLL(sys.argv[1])
for f in (lib.BIO_new, lib.BIO_s_mem): f.restype = ctypes.c_void_p
lib.BIO_new.argtypes = [ctypes.c_void_p]
lib.BIO_write.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
lib.BIO_read.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
bio = lib.BIO_new(lib.BIO_s_mem())
for n in range(1000):
    said = b"%06d" % n
    assert lib.BIO_write(bio, said, 0) == 0
    assert lib.BIO_write(bio, said, -1) <= 0
    assert lib.BIO_write(bio, said, 6) == 6
    got = ctypes.create_string_buffer(6)
    assert lib.BIO_read(bio, got, 6) == 6 and got.raw == said, got.raw
`

// TestAheadOfTheEntry has a probe on the first branch of BIO_write in a stripped libcrypto: every call fires it once, and
// the kernel takes the branch as the processor would.
func TestAheadOfTheEntry(t *testing.T) {
	found, _ := filepath.Glob("/usr/lib/*-linux-gnu/libcrypto.so.3")
	if len(found) == 0 {
		t.Skip("no libcrypto is installed")
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	libs := target.Libraries()
	lib := libs[slices.IndexFunc(libs, func(l target.Library) bool { return l.OnDemand })]
	for _, multi := range []bool{true, false} {
		t.Run(fmt.Sprintf("multi=%v", multi), func(t *testing.T) {
			programs := newCounting(t, multi)
			path := filepath.Join(t.TempDir(), "libcrypto.so.3")
			if err := os.WriteFile(path, text, 0o755); err != nil {
				t.Fatal(err)
			}
			handle, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer handle.Close()
			f := target.Describe(target.NewCache(target.DefaultBudget()), lib, path, handle)
			if len(f.Sites) != 1 || f.Sites[0].Ahead == 0 || !strings.HasPrefix(f.Sites[0].Code, "j") {
				t.Skipf("this libcrypto has no branch to probe: %v", f.Explain())
			}
			r := registry(t, programs, quick())
			if r.Use(target.Process{PID: 1}, f); phase(t, r) != Attached {
				t.Fatalf("%+v", r.List())
			}
			if out, err := exec.Command("/usr/bin/python3", "-c", memoryWrites, path).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			// OpenSSL writes nothing there by itself.
			if n := programs.hits(t, "bio_write_enter"); n != 3000 {
				t.Errorf("%d hits of 3000 calls", n)
			}
		})
	}
}
