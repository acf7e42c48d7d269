package vmtest

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestInitramfsIsReadByCpio holds the writer against an independent reader.
func TestInitramfsIsReadByCpio(t *testing.T) {
	r := NewInitramfs()
	r.Add("/usr/bin/x", []byte("hello"))
	r.Link("/bin/sh", "busybox")
	r.Dir("/proc")
	file := filepath.Join(t.TempDir(), "i.gz")
	if err := r.Write(file); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-c", "gzip -dc "+file+" | python3 -c '"+readNewc+"'").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := []string{"bin 40755 0", "bin/sh 120777 7", "proc 40755 0", "usr 40755 0", "usr/bin 40755 0", "usr/bin/x 100755 5"}
	if got := strings.Split(strings.TrimSpace(string(out)), "\n"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// readNewc walks a newc archive as the kernel does: 13 hexadecimal fields of 8, name and data padded to 4.
const readNewc = `
import sys
b = sys.stdin.buffer.read(); i = 0
while True:
    assert b[i:i+6] == b"070701", i
    f = [int(b[i+6+8*k:i+14+8*k], 16) for k in range(13)]
    n = b[i+110:i+110+f[11]-1].decode()
    if n == "TRAILER!!!": break
    print(n, "%o" % f[1], f[6])
    i = (i + 110 + f[11] + 3) // 4 * 4
    i = (i + f[6] + 3) // 4 * 4
`
