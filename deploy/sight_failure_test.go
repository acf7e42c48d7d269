package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// mapper maps each file that it is given as code, as a loader does, and stays.
const mapper = `
import mmap, sys, time
held = []
for name in sys.argv[1:]:
    with open(name, "rb") as f: held.append(mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC))
print("up", flush=True); time.sleep(300)
`

// refusedSource is a library whose SSL_read begins with an instruction that the kernel puts no uprobe on.
const refusedSource = `
__asm__(".globl SSL_read, SSL_write, SSL_do_handshake, SSL_free\n"
	".type SSL_read, @function\n.type SSL_write, @function\n.type SSL_do_handshake, @function\n.type SSL_free, @function\n"
	"SSL_read: hlt\nret\n.size SSL_read, .-SSL_read\nSSL_write: hlt\nret\n.size SSL_write, .-SSL_write\n"
	"SSL_do_handshake: ret\n.size SSL_do_handshake, .-SSL_do_handshake\nSSL_free: ret\n.size SSL_free, .-SSL_free\n");
`

// TestSightAttachFailure maps libraries that no probe goes into. Each is one line of status that says what, why and what
// to do, and the good library beside them is attached all the same.
func TestSightAttachFailure(t *testing.T) {
	needsRoot(t)
	real := loaded(t, "nginx", "libssl.so")
	whole, err := os.ReadFile(real)
	must(t, err)
	cases := []struct{ name, why string }{
		{"lacks-a-function", `no SSL_read`},
		{"cut-short", `truncated|cut short|ends before|end of file|incomplete`},
		{"not-a-library", `not an? .*(ELF|program file)`},
		{"refused-by-the-kernel", `instruction`},
	}
	// What to do comes last, after what is wrong.
	const action = `.*; (use|install|reinstall|replace|give|run|report|rename|rebuild|restart|nothing|tell|if)\b`
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name, "libssl.so.3") }
	for _, c := range cases {
		must(t, os.Mkdir(filepath.Join(dir, c.name), 0o755))
	}
	copyFile(t, compiled(t, "lib", "int SSL_write(void *s, const void *b, int n) { return n; } void SSL_free(void *s) {}", "-shared", "-fPIC"), file("lacks-a-function"))
	must(t, os.WriteFile(file("cut-short"), whole[:len(whole)/3], 0o755))
	must(t, os.WriteFile(file("not-a-library"), make([]byte, 8192), 0o755))
	copyFile(t, compiled(t, "lib", refusedSource, "-shared", "-fPIC"), file("refused-by-the-kernel"))
	good := filepath.Join(dir, "good", "libssl.so.3")
	copyFile(t, real, good)
	args := []string{"-c", mapper, good}
	for _, c := range cases {
		args = append(args, file(c.name))
	}
	p := up(t)
	holder := start(t, "python3", args...)
	eventually(t, 10*time.Second, "the files are mapped", func() bool { return holder.log.String() != "" })
	mapped := time.Now()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Log(p.on(t).told(named-time.Since(mapped), filepath.Join(c.name, "libssl.so.3"), "("+c.why+")"+action))
		})
	}
	for _, c := range cases {
		if rows := p.probes(file(c.name)); len(rows) != 1 || rows[0].State == "attached" || rows[0].Reason == "" {
			t.Errorf("%s: %+v, want one row with a reason", c.name, rows)
		}
	}
	eventually(t, 2*healthEvery, fmt.Sprintf("the good one is attached: %+v", p.probes(dir)), func() bool {
		rows := p.probes(good)
		return len(rows) == 1 && rows[0].State == "attached"
	})
}
