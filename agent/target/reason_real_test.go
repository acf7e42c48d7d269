package target

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// compileC builds a C program and strips it.
func compileC(t *testing.T, code string, flags ...string) (program string, err error) {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.c")
	if err := os.WriteFile(source, []byte(code), 0o644); err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(dir, "program")
	out, err := exec.Command("cc", append([]string{"-O1", "-s", "-o", program, source}, flags...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cc: %w: %s", err, out)
	}
	return program, nil
}

// holding is a program that has texts among its constants, and waits.
func holding(texts ...string) string {
	code := "#include <unistd.h>\nstatic const char *const texts[] = {"
	for _, text := range texts {
		code += fmt.Sprintf("%q,", strings.TrimRight(text, "\x00"))
	}
	return code + "};\nint main(int n, char **v) { write(-1, texts[n % (sizeof texts / sizeof *texts)], n); pause(); return 0; }\n"
}

// reasonFor runs a program until it waits, and asks about it.
func reasonFor(t *testing.T, program string) string {
	t.Helper()
	c := run(t, program)
	eventually(t, "exec of "+program, func() bool {
		_, _, exe, _ := exeOf("/proc", uint32(c.Process.Pid))
		return exe == program
	})
	name, reason := ask(t, explainer(unknownToProbe), uint32(c.Process.Pid))
	if name != filepath.Base(program) {
		t.Errorf("%s is called %q", program, name)
	}
	return reason
}

// OpenSSL, linked statically and stripped, is the commonest program that shows no function at all.
func TestReasonOfStaticOpenSSL(t *testing.T) {
	needRoot(t)
	const code = `#include <openssl/ssl.h>
#include <unistd.h>
int main(void) {
	SSL *s = SSL_new(SSL_CTX_new(TLS_method()));
	char b[8];
	SSL_connect(s); SSL_accept(s); SSL_write(s, b, 1); SSL_read(s, b, 1);
	pause();
	return 0;
}`
	program, err := compileC(t, code, "-static", "-w", "-lssl", "-lcrypto", "-ldl", "-lpthread")
	if err != nil {
		t.Logf("libssl.a is not here (Debian: libssl-dev), so a real program is left out; the next test has one like it: %.200v", err)
		return
	}
	const want = "TLS by OpenSSL linked statically into the executable and stripped of the symbols that probes need is not decoded yet"
	if reason := reasonFor(t, program); reason != want {
		t.Errorf("got  %s\nwant %s", reason, want)
	}
}

// Each stack is told by as few of its marks as it needs, in a program that has nothing else of it. One mark of each, and
// names that are only like marks, tell nothing.
func TestReasonOfEachStack(t *testing.T) {
	needRoot(t)
	single := []string{"ssl/", "rustls", "tokio-rustls-0.26.0/src/lib.rs", "OpenSSL 3.5.4", "BoringSSL"}
	for _, s := range stacks() {
		program, err := compileC(t, holding(s.marks[:s.needs]...))
		if err != nil {
			t.Skipf("no C compiler: %v", err)
		}
		want := "TLS by " + s.name + " in the executable is not decoded yet"
		if s.bySymbol {
			want = "TLS by " + s.name + " linked statically into the executable and stripped of the symbols that probes need is not decoded yet"
		}
		if reason := reasonFor(t, program); reason != want {
			t.Errorf("got  %s\nwant %s", reason, want)
		}
		if s.needs > 1 {
			single = append(single, s.marks[0])
		}
	}
	program, err := compileC(t, holding(single...))
	if err != nil {
		t.Fatal(err)
	}
	if reason := reasonFor(t, program); !strings.HasPrefix(reason, "what does its TLS is unknown: ") {
		t.Errorf("one mark of each: %s", reason)
	}
}

// A library that carries a stack of its own is named with it.
func TestReasonOfAStackInsideALibrary(t *testing.T) {
	needRoot(t)
	library, err := compileC(t, holding("ssl/tls13_client.cc", "ssl/s3_pkt.cc"), "-shared", "-fPIC")
	if err != nil {
		t.Skipf("no C compiler: %v", err)
	}
	c := python(t, nil)
	path := copyFile(t, library, filepath.Join(t.TempDir(), "cygrpc.so"))
	c.load(t, path)
	e := explainer(unknownToProbe)
	if _, reason := ask(t, e, c.pid()); reason != "TLS by BoringSSL or AWS-LC inside cygrpc.so is not decoded yet" {
		t.Errorf("at first: %s", reason)
	}
	// The files are the same: they are not opened again.
	e.files = map[stamp]*opened{}
	e.soon()
	if _, reason := ask(t, e, c.pid()); reason != "TLS by BoringSSL or AWS-LC inside cygrpc.so is not decoded yet" || len(e.files) != 0 {
		t.Errorf("again: %s, %d files read", reason, len(e.files))
	}
	// One more library, attached, whose calls do not explain the bytes: both are named.
	c.load(t, copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3")))
	e.Probe = func(Identity, uint32) (bool, bool, string) { return true, true, "" }
	const want = "OpenSSL is decoded in this process, but it also carries BoringSSL or AWS-LC inside cygrpc.so, which is not decoded yet"
	undecoded := uint64(1)
	eventually(t, want, func() bool {
		undecoded++
		e.soon()
		return e.Explain([]Traffic{{PID: c.pid(), Undecoded: undecoded}})[0].Reason == want
	})
}

// A program that imports a way round the probes is told so.
func TestReasonOfABypass(t *testing.T) {
	needRoot(t)
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl")
	}
	c := exec.Command(openssl, "base64")
	in, err := c.StdinPipe() // it waits for input
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	pid := uint32(c.Process.Pid)
	eventually(t, "libssl", func() bool {
		maps, _ := os.ReadFile(procPath("/proc", pid, "maps"))
		return strings.Contains(string(maps), "libssl.so")
	})
	e := explainer(func(Identity, uint32) (bool, bool, string) { return true, true, "" })
	if _, reason := ask(t, e, pid); !strings.Contains(reason, "through BIO_f_ssl, ") || !strings.Contains(reason, "which the program imports and no probe watches") {
		t.Errorf("%s", reason)
	}
}

// process makes a procfs of one process whose executable is a file that need not run.
func process(t *testing.T, exe []byte, libraries ...string) (e *Explainer, pid uint32) {
	t.Helper()
	proc := newFakeProc(t, 91)
	proc.write(t, 7, libraries...)
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, filepath.Join(proc.dir, "exe")); err != nil {
		t.Fatal(err)
	}
	e = explainer(unknownToProbe)
	e.Proc = filepath.Dir(proc.dir)
	return e, 91
}

// Programs that cannot be run here, by what their files and maps show.
func TestReasonByFiles(t *testing.T) {
	packed := elfFile(elf.ELFCLASS64, "nothing")
	copy(packed[200:], "UPX!")
	named := func(name string, texts ...string) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, elfFile(elf.ELFCLASS64, texts...), 0o755); err != nil {
			t.Fatal(err)
		}
		return file
	}
	broken := filepath.Join(t.TempDir(), "libwolfssl.so.42")
	if err := os.WriteFile(broken, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		exe       []byte
		libraries []string
		want      string
	}{
		"32-bit":         {elfFile(elf.ELFCLASS32), nil, "what does its TLS is unknown: it is a 32-bit program, and only 64-bit programs are decoded"},
		"32-bit, static": {elfFile(elf.ELFCLASS32, "mbedtls_ssl_fetch_input", "mbedtls_ssl_read_record"), nil, "TLS by Mbed TLS in the executable is not decoded: it is a 32-bit program, and only 64-bit programs are decoded"},
		"32-bit, shared": {elfFile(elf.ELFCLASS32), []string{named("libssl.so.3")}, "TLS by OpenSSL is not decoded: it is a 32-bit program, and only 64-bit programs are decoded"},
		"packed":         {packed, nil, "what does its TLS is unknown: no known library is mapped, and the executable is packed (UPX), so that nothing can be read from it"},
		"java":           {elfFile(elf.ELFCLASS64), []string{named("libjvm.so")}, "it runs Java, whose own TLS (JSSE) is not decoded yet"},
		"java with a library": {elfFile(elf.ELFCLASS64), []string{named("libjvm.so"), named("libnetty_tcnative_linux_x86_64123.so")},
			"it runs Java, whose own TLS (JSSE) is not decoded yet; it maps libnetty_tcnative_linux_x86_64123.so, by its name BoringSSL inside netty-tcnative, which is not decoded yet"},
		// GraalVM, or an agent of somebody else's in the same process: what carries a stack is found all the same.
		"java with rustls": {elfFile(elf.ELFCLASS64, "/rustls-0.23.40/src/client/hs.rs", "received corrupt message of type "), []string{named("libjvm.so")},
			"TLS by rustls in the executable is not decoded yet; it runs Java, whose own TLS (JSSE) is not decoded yet"},
		"java, and BoringSSL in what its name says": {elfFile(elf.ELFCLASS64), []string{named("libjvm.so"), named("libconscrypt_jni.so", "ssl/tls13_client.cc", "ssl/s3_pkt.cc")},
			"TLS by BoringSSL or AWS-LC inside libconscrypt_jni.so is not decoded yet; it runs Java, whose own TLS (JSSE) is not decoded yet"},
		"32-bit java":         {elfFile(elf.ELFCLASS32), []string{named("libjvm.so")}, "it runs Java, whose own TLS (JSSE) is not decoded yet; it is a 32-bit program, and only 64-bit programs are decoded"},
		"a name, unreadable":  {elfFile(elf.ELFCLASS64), []string{broken}, "it maps libwolfssl.so.42, by its name wolfSSL, which is not decoded yet"},
		"erlang":              {elfFile(elf.ELFCLASS64), []string{named("beam.smp")}, "it runs Erlang, whose own TLS (OTP's ssl) is not decoded yet"},
		"NSS's ciphers alone": {elfFile(elf.ELFCLASS64), []string{named("libnss3.so")}, "what does its TLS is unknown: no known library is mapped, and neither the executable nor its libraries show one; it may be linked statically with all names removed, or the process passes on the TLS of others, as a proxy does"},
		"rustls": {elfFile(elf.ELFCLASS64, "/home/runner/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/rustls-0.23.40/src/client/hs.rs", "\x18received corrupt message of type \xc0"), nil,
			"TLS by rustls in the executable is not decoded yet"},
		"a broken file": {[]byte("not a program"), nil, "what does its TLS is unknown: no known library is mapped, and neither the executable nor its libraries show one; it may be linked statically with all names removed, or the process passes on the TLS of others, as a proxy does"},
	} {
		e, pid := process(t, tc.exe, tc.libraries...)
		if _, reason := ask(t, e, pid); reason != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, reason, tc.want)
		}
	}
}

// A library that has no place for probes keeps the reason that was found when it was read.
func TestReasonOfAFileWithoutProbes(t *testing.T) {
	file := copyFile(t, "/bin/true", filepath.Join(t.TempDir(), "libssl.so.3"))
	e, pid := process(t, elfFile(elf.ELFCLASS64), file)
	if _, reason := ask(t, e, pid); !strings.HasPrefix(reason, "OpenSSL is not decoded: ") || !strings.Contains(reason, "it exports no SSL_read") {
		t.Errorf("%s", reason)
	}
}

// A copy of crypto/tls under another name is named by that name. It is laid over the standard library, whose internals it
// needs.
func TestReasonOfAForkInGo(t *testing.T) {
	needRoot(t)
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skipf("no Go toolchain: %v", err)
	}
	std := filepath.Join(strings.TrimSpace(string(root)), "src/crypto/tls")
	files, _ := filepath.Glob(filepath.Join(std, "*.go"))
	replace := map[string]string{}
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			replace[filepath.Join(std, "fork.v2", filepath.Base(file))] = file
		}
	}
	dir := t.TempDir()
	overlay, _ := json.Marshal(map[string]any{"Replace": replace})
	const code = `package main
import ("net"; "time"; tls "crypto/tls/fork.v2")
func main() {
	time.Sleep(time.Minute)
	a, b := net.Pipe()
	go tls.Server(a, nil).Handshake()
	tls.Client(b, nil).Write(nil)
}
`
	for name, text := range map[string][]byte{"overlay.json": overlay, "main.go": []byte(code)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "program")
	out, err := exec.Command("go", "build", "-ldflags=-s -w", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program, filepath.Join(dir, "main.go")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if reason := reasonFor(t, program); reason != "TLS by the Go package crypto/tls/fork.v2 in the executable is not decoded yet" {
		t.Error(reason)
	}
}
