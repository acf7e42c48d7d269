package probe

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestUpgradeOfARunningServer replaces the library of a real server as a package manager does, and restarts it.
func TestUpgradeOfARunningServer(t *testing.T) {
	programs := newCounting(t, true)
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Skipf("ip: %v: %s", err, out)
	}
	dir := t.TempDir()
	path := library(t, filepath.Join(dir, "lib"))
	shell := func(library, script string) *exec.Cmd {
		c := exec.Command("sh", "-c", script)
		c.Dir = dir
		if library != "" {
			c.Env = append(os.Environ(), "LD_LIBRARY_PATH="+library)
		}
		return c
	}
	if out, err := shell("", "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out crt -subj /CN=spile -days 1").CombinedOutput(); err != nil {
		t.Skipf("openssl: %v: %s", err, out)
	}
	serve := func(port string) *exec.Cmd {
		c := shell(filepath.Dir(path), "exec openssl s_server -accept 127.0.0.1:"+port+" -key key -cert crt -www -quiet")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
		eventually(t, "the server", func() bool {
			c, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		return c
	}
	// The client is this process, which maps no such library: every hit is the server's.
	ask := func(port string) bool {
		before := programs.hits(t, freed)
		c, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
		if answer, err := io.ReadAll(c); !strings.Contains(string(answer), "200 ok") {
			t.Fatalf("the server said %q, %v", answer, err)
		}
		c.Close()
		for range 1000 {
			if programs.hits(t, freed) > before {
				return true
			}
			time.Sleep(time.Millisecond)
		}
		return false
	}
	r := registry(t, programs, DefaultTimes())
	watched(t, r, time.Second)
	old := serve("4433")
	eventually(t, "the library", func() bool { return attached(r) == 1 })
	if !ask("4433") {
		t.Error("the server's answer was not seen")
	}
	if err := os.Rename(library(t, filepath.Join(dir, "lib/new")), path); err != nil {
		t.Fatal(err)
	}
	young := serve("4434")
	eventually(t, "the new file", func() bool { return attached(r) == 2 })
	for _, port := range []string{"4433", "4434"} {
		if !ask(port) {
			t.Errorf("after the upgrade the server on port %s is not seen", port)
		}
	}
	old.Process.Kill()
	old.Wait()
	eventually(t, "the old file to be let go", func() bool {
		for _, s := range r.List() {
			if s.Phase == Draining && s.Processes == 0 {
				return true
			}
		}
		return false
	})
	if !ask("4434") {
		t.Error("with the old file the new one was let go")
	}
	young.Process.Kill()
}

// TestOverwrittenByAnotherBuild writes another build into the very file, as cp does. The functions lie elsewhere in it.
func TestOverwrittenByAnotherBuild(t *testing.T) {
	programs := newCounting(t, true)
	dir, program := t.TempDir(), client(t)
	build := func(name, padding string) string {
		source, path := filepath.Join(dir, name+".c"), filepath.Join(dir, name)
		code := fmt.Sprintf("int SSL_read(void) { return 1; } int SSL_write(void) { return 2; }\n%s\nvoid SSL_free(void *s) {}\n", padding)
		if err := os.WriteFile(source, []byte(code), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cc", "-shared", "-fPIC", "-O0", "-Wl,--build-id", "-o", path, source).CombinedOutput(); err != nil {
			t.Skipf("cc: %v: %s", err, out)
		}
		return path
	}
	path := build("libssl.so.9", "")
	other := build("other", "int pad(int n) { return n < 2 ? n : pad(n - 1) + pad(n - 2); }")
	r := registry(t, programs, DefaultTimes())
	watched(t, r, 100*time.Millisecond)
	first := stay(t, exec.Command(program, path, "stay"))
	eventually(t, "the first build", func() bool { return attached(r) == 1 })
	first.call(t)
	before := one(t, r)
	text, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o755); err != nil {
		t.Fatal(err)
	}
	second := stay(t, exec.Command(program, path, "stay"))
	eventually(t, "the second build", func() bool { s := one(t, r); return s.BuildID != before.BuildID && s.Phase == Attached })
	r.detaching.Wait()
	hits := programs.hits(t, freed)
	for range 5 {
		second.call(t)
	}
	if n := programs.hits(t, freed) - hits; n != 5 || hits != 1 {
		t.Errorf("%d hits of 1 call before and %d of 5 after", hits, n)
	}
}
