package probe

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestOverwrittenAgainAndAgain writes two builds over each other in place, as fast as the probes come and go, and starts
// programs after each write. Each is right about what it calculates, with or without probes.
func TestOverwrittenAgainAndAgain(t *testing.T) {
	programs := newCounting(t, true)
	dir := t.TempDir()
	build := func(output, code string, flags ...string) string {
		source, path := filepath.Join(dir, output+".c"), filepath.Join(dir, output)
		if err := os.WriteFile(source, []byte(code), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cc", append([]string{"-O0", "-o", path, source}, flags...)...).CombinedOutput(); err != nil {
			t.Skipf("cc: %v: %s", err, out)
		}
		return path
	}
	shim := func(pad int) string {
		return fmt.Sprintf(`__asm__(".text\n.skip %d, 0x90\n");
int SSL_read(void *s, void *b, int n) { volatile int x = n; return x - n; }
int SSL_write(void *s, const void *b, int n) { volatile int x = n; return x; }
int SSL_do_handshake(void *s) { volatile int x = 1; return x; }
void SSL_free(void *s) { volatile int x = 1; (void)x; }
`, pad)
	}
	builds := [][]byte{
		contents(t, build("one.so", shim(64), "-shared", "-fPIC", "-Wl,-soname,libssl.so.3")),
		contents(t, build("two.so", shim(77), "-shared", "-fPIC", "-Wl,-soname,libssl.so.3")),
	}
	path := filepath.Join(dir, "libssl.so.3")
	if err := os.WriteFile(path, builds[0], 0o755); err != nil {
		t.Fatal(err)
	}
	user := build("user", `#include <unistd.h>
int SSL_read(void *, void *, int), SSL_write(void *, const void *, int), SSL_do_handshake(void *); void SSL_free(void *);
int main(int n, char **arg) {
	char b[64];
	for (int i = 0; i < 4000; i++) {
		if (SSL_do_handshake(b) != 1 || SSL_write(b, b, 18) != 18 || SSL_read(b, b, 64) != 0) return 9;
		if (i % 100 == 0) usleep(1000);
	}
	SSL_free(b);
	return 0;
}
`, path, "-Wl,-rpath,"+dir)
	r := registry(t, programs, DefaultTimes())
	watched(t, r, 100*time.Millisecond)
	runs, attachedRuns := 0, 0
	for i := range 12 {
		if err := os.WriteFile(path, builds[(i+1)%2], 0o755); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			if out, err := exec.Command(user).CombinedOutput(); err != nil {
				t.Errorf("write %d: a program ended with %v: %s", i, err, out)
			}
			runs++
			if attached(r) > 0 {
				attachedRuns++
			}
		}
	}
	t.Logf("%d programs, %d of them with the library attached at their end; SSL_free was seen %d times", runs, attachedRuns, programs.hits(t, freed))
	if attachedRuns < runs/4 || programs.hits(t, freed) == 0 {
		t.Errorf("the library was attached at the end of %d of %d programs: nothing was put to the test", attachedRuns, runs)
	}
}
