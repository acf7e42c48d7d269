package target

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func explainer(probe ProbeState) *Explainer {
	return &Explainer{Proc: "/proc", Cache: NewCache(slow()), Libraries: Libraries(), Probe: probe}
}

// ask explains one process.
func ask(t testing.TB, e *Explainer, pid uint32) (name, reason string) {
	t.Helper()
	got := e.Explain([]Traffic{{PID: pid, Undecoded: 1}})
	for deadline := time.Now().Add(10 * time.Second); strings.Contains(got[0].Reason, "still being searched"); {
		if time.Now().After(deadline) {
			t.Fatalf("searched for 10 s: %+v", got)
		}
		e.told[life{pid, 0}].looked = time.Time{}
		got = e.Explain([]Traffic{{PID: pid, Undecoded: 1}})
	}
	return got[0].Process, got[0].Reason
}

// soon lets the next round look at everybody again.
func (e *Explainer) soon() {
	for _, k := range e.told {
		k.looked = time.Time{}
	}
}

func unknownToProbe(Identity, uint32) (known, attached bool, reason string) { return false, false, "" }

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
		{"python3 with GnuTLS", firstOf(t, "/usr/lib/*/libgnutls.so.30"), "was only just found; it is attached within seconds"},
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
		got := e.Explain([]Traffic{{PID: c.pid(), Undecoded: 7}})
		if len(got) != 1 || !strings.Contains(got[0].Reason, tc.want) || !strings.HasPrefix(got[0].Process, "python3") || got[0].TLSBytes != 7 || got[0].PID != c.pid() {
			t.Errorf("%s: %+v, want %q", tc.name, got, tc.want)
		}
	}
	if node, err := exec.LookPath("node"); err == nil && !sharedOpenSSL(node) {
		c := run(t, node, "-e", "setTimeout(()=>{}, 60000)")
		eventually(t, "node", func() bool {
			_, _, exe, _ := exeOf("/proc", uint32(c.Process.Pid))
			return filepath.Base(exe) == "node"
		})
		if name, reason := ask(t, e, uint32(c.Process.Pid)); name != "node" || !strings.Contains(reason, "OpenSSL or BoringSSL in the executable") || !strings.Contains(reason, "only just found") {
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
		if name, reason := ask(t, e, uint32(c.Process.Pid)); name != "java" || !strings.Contains(reason, "JSSE") {
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
	name, reason := ask(t, explainer(unknownToProbe), uint32(c.Process.Pid))
	if name != "client" || !strings.HasPrefix(reason, "Go crypto/tls (") || !strings.Contains(reason, "only just found") {
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
		e := explainer(func(id Identity, _ uint32) (bool, bool, string) { asked = id; return tc.known, tc.attached, tc.reason })
		if _, reason := ask(t, e, c.pid()); !strings.Contains(reason, tc.want) {
			t.Errorf("%s: %s", name, reason)
		}
		if asked.Ino != inode(t, path) || asked.BuildID == "" {
			t.Errorf("%s: asked about %+v", name, asked)
		}
	}
	nss := firstOf(t, "/usr/lib/*/libssl3.so")
	if nss == "" {
		return
	}
	c.load(t, nss)
	e := explainer(func(Identity, uint32) (bool, bool, string) { return true, true, "" })
	if _, reason := ask(t, e, c.pid()); !strings.Contains(reason, "OpenSSL is decoded in this process, but it also carries NSS, which is not decoded yet") {
		t.Errorf("both: %s", reason)
	}
}
