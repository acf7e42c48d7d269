package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestSightShortLived runs 100 processes that live for one call each: all 100 calls are there, at both ends and with the
// right ports, although no such process was there to be found before it called.
func TestSightShortLived(t *testing.T) {
	needsRoot(t)
	p := up(t)
	sightNginx(t, 9520)
	const runs = 100
	for i := range runs {
		output(t, "curl", "-sk", "--http1.1", "--local-port", fmt.Sprint(21_000+i), "-o", "/dev/null", fmt.Sprintf("https://127.0.0.1:9520/users/%d", 21_000+i))
	}
	eventually(t, 10*time.Second, "100 calls", func() bool { return len(p.calls()) >= runs })
	time.Sleep(time.Second)
	calls, paths := p.calls(), map[string]bool{}
	for _, c := range calls {
		paths[c.Path] = true
		if c.Path != fmt.Sprintf("/users/%d", c.Source.Port) || c.Destination.Port != 9520 || c.Observed != "both" || c.Source.Process != "curl" || c.Destination.Process != "nginx" {
			t.Errorf("call: %s", brief(c))
		}
	}
	if len(calls) != runs || len(paths) != runs {
		t.Errorf("%d calls with %d paths, want %d", len(calls), len(paths), runs)
	}
}

// fetch calls a port of the loopback once with the host's curl, under a path of its own.
func fetch(t testing.TB, port, id int) {
	t.Helper()
	output(t, "curl", "-sk", "--http1.1", "-o", "/dev/null", fmt.Sprintf("https://127.0.0.1:%d/users/%d", port, id))
}

// servedBy lists the calls that were seen at the server's end at a port, by path.
func (p *product) servedBy(port int) map[string]callLine {
	p.t.Helper()
	seen := map[string]callLine{}
	for _, c := range p.calls() {
		if c.Destination.Port == port && (c.Observed == "both" || c.Observed == "server") {
			seen[c.Path] = c
		}
	}
	return seen
}

// TestSightUpgrade replaces a library under running programs as package managers do, and as they should not.
func TestSightUpgrade(t *testing.T) {
	needsRoot(t)
	original := loaded(t, "nginx", "libssl.so")
	dir := t.TempDir()
	file := filepath.Join(dir, "libssl.so.3")
	copyFile(t, original, file)
	env := "LD_LIBRARY_PATH=" + dir
	old := sightNginx(t, 9530, env)
	p := up(t)
	eventually(t, 10*time.Second, "the library of a private place is attached", func() bool { return len(p.probes(file)) == 1 })
	expect := func(port, id int, within time.Duration) {
		t.Helper()
		path := fmt.Sprintf("/users/%d", id)
		eventually(t, within, fmt.Sprintf("the call of %s at port %d, seen at the server", path, port), func() bool {
			c, ok := p.servedBy(port)[path]
			return ok && c.Destination.Process == "nginx"
		})
	}
	fetch(t, 9530, 1)
	expect(9530, 1, 5*time.Second)

	// A package manager writes a new file and renames it over the old one: another inode under the same name.
	copyFile(t, original, file+".new")
	must(t, os.Rename(file+".new", file))
	next := sightNginx(t, 9531, env)
	time.Sleep(time.Second) // a program of a file never seen before is found at its exec, not before its first instruction
	fetch(t, 9531, 2)
	expect(9531, 2, 5*time.Second)
	fetch(t, 9530, 3) // the one that still has the old file
	expect(9530, 3, 5*time.Second)

	// `cp` over a library in use keeps the inode. The same bytes change nothing for the programs that run; the probes make
	// way for the writer, and are back soon after.
	data, err := os.ReadFile(original)
	must(t, err)
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(data, 0)
	must(t, err)
	must(t, f.Close())
	time.Sleep(500 * time.Millisecond)
	fetch(t, 9531, 4)
	expect(9531, 4, 5*time.Second)
	third := sightNginx(t, 9532, env)
	time.Sleep(time.Second)
	fetch(t, 9532, 5)
	expect(9532, 5, 5*time.Second)
	for _, process := range []*process{old, next, third} {
		select {
		case <-process.done:
			t.Errorf("a server ended: %v\n%s", process.ProcessState, process.log)
		default:
		}
	}
	if n := len(p.calls()); n != 5 {
		t.Errorf("%d calls, want 5, each once", n)
	}
	p.fresh()
	if rows := p.probes(file); len(rows) != 2 {
		t.Errorf("the two files of one name, both in use, have the probes %+v", rows)
	}
}

// shimSource is a library with the functions that make it OpenSSL to Spile, and PAD bytes before them.
const shimSource = `
__asm__(".text\n.skip " PAD ", 0x90\n");
__attribute__((noinline)) int SSL_read(void *s, void *b, int n) { volatile int x = n; return x - n; }
__attribute__((noinline)) int SSL_write(void *s, const void *b, int n) { volatile int x = n; return x; }
__attribute__((noinline)) int SSL_do_handshake(void *s) { volatile int x = 1; return x; }
__attribute__((noinline)) void SSL_free(void *s) { volatile int x = 1; (void)x; }
`

const shimUser = `
#include <stdlib.h>
#include <unistd.h>
int SSL_read(void *, void *, int), SSL_write(void *, const void *, int), SSL_do_handshake(void *);
int main(int argc, char **argv) {
	char b[64] = "GET / HTTP/1.1\r\n\r\n", r = 0;
	for (int i = 0; i < atoi(argv[1]); i++) {
		if (SSL_do_handshake(b) != 1 || SSL_write(b, b, 18) != 18 || SSL_read(b, b, 64) != 0) return 9;
		usleep(1000);
	}
	return 0;
}
`

// TestSightOverwritten writes another build of a probed library over it in place, so that what was the first instruction
// of a function is now the middle of another: programs that start afterwards must run as if nobody watched.
func TestSightOverwritten(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "libssl.so.3")
	first := compiled(t, "libssl.so.3", shimSource, "-shared", "-fPIC", `-DPAD="64"`, "-Wl,-soname,libssl.so.3")
	second := compiled(t, "libssl.so.3", shimSource, "-shared", "-fPIC", `-DPAD="77"`, "-Wl,-soname,libssl.so.3")
	copyFile(t, first, file)
	user := compiled(t, "user", shimUser, file, "-Wl,-rpath,"+dir)
	run := func(when string) {
		t.Helper()
		if code, said := exitCode(t, exec.Command(user, "300")); code != 0 {
			t.Errorf("%s a program ended with %d: %s", when, code, said)
		}
	}
	overwrite := func(build string) {
		data, err := os.ReadFile(build)
		must(t, err)
		must(t, os.WriteFile(file, data, 0o755)) // truncates and writes: the same inode
	}
	overwrite(second)
	run("with the second build and nobody watching")
	overwrite(first)
	run("with the first build and nobody watching")
	p := up(t)
	before := start(t, user, "60000")
	eventually(t, 15*time.Second, "the library is attached", func() bool {
		rows := p.probes(file)
		return len(rows) == 1 && rows[0].State == "attached"
	})
	run("with the first build, probed,")
	before.kill() // it would not survive what follows, watched or not
	overwrite(second)
	time.Sleep(time.Second)
	for range 3 {
		run("after the probed library was overwritten in place")
	}
	t.Logf("probes: %+v", p.probes(file))
}
