package target

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func explainer(probe ProbeState) *Explainer {
	return &Explainer{Proc: "/proc", Cache: NewCache(slow()), Libraries: Libraries(), Probe: probe}
}

func unknownToProbe(Identity) (known, attached bool, reason string) { return false, false, "" }

// firstOf finds an installed library, for a child to map.
func firstOf(t *testing.T, patterns ...string) string {
	t.Helper()
	for _, pattern := range patterns {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

func TestReasonsOfRealPrograms(t *testing.T) {
	needRoot(t)
	e := explainer(unknownToProbe)
	for _, tc := range []struct{ name, library, want string }{
		{"python3 with GnuTLS", firstOf(t, "/usr/lib/*/libgnutls.so.30"), "TLS by GnuTLS is not decoded yet"},
		{"python3 with NSS", firstOf(t, "/usr/lib/*/libssl3.so"), "TLS by NSS is not decoded yet"},
		{"python3 alone", "", "unknown"},
	} {
		c := python(t, nil)
		if tc.library == "" && tc.want != "unknown" {
			continue
		}
		if tc.library != "" {
			c.load(t, tc.library)
		}
		got := e.Explain(map[uint32]uint64{c.pid(): 7})
		if len(got) != 1 || !strings.Contains(got[0].Reason, tc.want) || !strings.HasPrefix(got[0].Process, "python3") || got[0].TLSBytes != 7 || got[0].PID != c.pid() {
			t.Errorf("%s: %+v, want %q", tc.name, got, tc.want)
		}
	}
	if node, err := exec.LookPath("node"); err == nil {
		c := run(t, node, "-e", "setTimeout(()=>{}, 60000)")
		eventually(t, "node", func() bool {
			_, _, exe, _ := exeOf("/proc", uint32(c.Process.Pid))
			return filepath.Base(exe) == "node"
		})
		if name, reason := e.reason(uint32(c.Process.Pid)); name != "node" || !strings.Contains(reason, "OpenSSL or BoringSSL linked into the executable") {
			t.Errorf("node: %s: %s", name, reason)
		}
	}
	if java, err := exec.LookPath("java"); err == nil {
		source := filepath.Join(t.TempDir(), "Sleep.java")
		os.WriteFile(source, []byte("class Sleep { public static void main(String[] a) throws Exception { Thread.sleep(60000); } }"), 0o644)
		c := run(t, java, source)
		eventually(t, "java", func() bool {
			maps, _ := os.ReadFile(procPath("/proc", uint32(c.Process.Pid), "maps"))
			return strings.Contains(string(maps), "libjvm.so")
		})
		if name, reason := e.reason(uint32(c.Process.Pid)); name != "java" || !strings.Contains(reason, "JSSE") {
			t.Errorf("java: %s: %s", name, reason)
		}
	}
}

func TestReasonOfGo(t *testing.T) {
	source := filepath.Join(t.TempDir(), "main.go")
	program := filepath.Join(filepath.Dir(source), "client")
	code := "package main\nimport (\"crypto/tls\"; \"time\")\nfunc main() { time.Sleep(time.Minute); c, _ := tls.Dial(\"tcp\", \"127.0.0.1:1\", nil); c.Read(nil) }\n"
	if err := os.WriteFile(source, []byte(code), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", program, source).CombinedOutput(); err != nil {
		t.Skipf("go build: %v: %s", err, out)
	}
	c := run(t, program)
	eventually(t, "exec", func() bool { _, _, exe, _ := exeOf("/proc", uint32(c.Process.Pid)); return exe == program })
	name, reason := explainer(unknownToProbe).reason(uint32(c.Process.Pid))
	if name != "client" || !strings.HasPrefix(reason, "TLS by Go's crypto/tls (go1.") {
		t.Errorf("%s: %s", name, reason)
	}
}

func TestReasonFollowsTheProbe(t *testing.T) {
	needRoot(t)
	c := python(t, nil)
	path := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	c.load(t, path)
	for name, tc := range map[string]struct {
		known, attached bool
		reason, want    string
	}{
		"not yet handed on": {false, false, "", "only just found"},
		"failed":            {true, false, "attach SSL_read: refused; do this", "OpenSSL is not decoded: attach SSL_read: refused; do this"},
		"attached":          {true, true, "", "before it was attached"},
	} {
		asked := Identity{}
		e := explainer(func(id Identity) (bool, bool, string) { asked = id; return tc.known, tc.attached, tc.reason })
		if _, reason := e.reason(c.pid()); !strings.Contains(reason, tc.want) {
			t.Errorf("%s: %s", name, reason)
		}
		if asked.Ino != inode(t, path) || asked.BuildID == "" {
			t.Errorf("%s: asked about %+v", name, asked)
		}
	}
	gnutls := firstOf(t, "/usr/lib/*/libgnutls.so.30")
	if gnutls == "" {
		return
	}
	c.load(t, gnutls)
	e := explainer(func(Identity) (bool, bool, string) { return true, true, "" })
	if _, reason := e.reason(c.pid()); !strings.Contains(reason, "OpenSSL is decoded in this process, but it also carries GnuTLS") {
		t.Errorf("both: %s", reason)
	}
}

func TestExplainIsBoundedAndOrdered(t *testing.T) {
	counts := map[uint32]uint64{}
	for i := range uint32(maxExplained + 50) {
		counts[1<<30+i] = uint64(i)
	}
	got := explainer(unknownToProbe).Explain(counts)
	if len(got) != maxExplained || got[0].TLSBytes != maxExplained+49 || got[1].TLSBytes != maxExplained+48 {
		t.Fatalf("%d answers, the first %+v", len(got), got[0])
	}
	if !strings.Contains(got[0].Reason, "has ended") {
		t.Errorf("a process that never was: %q", got[0].Reason)
	}
}
