package deploy

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSmokeMisuse makes the mistakes that people make: each gives one clear line that says what to do, and the right status.
func TestSmokeMisuse(t *testing.T) {
	needsRoot(t)
	bin := binaries(t)
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	must(t, os.Chmod(dir, 0o755))
	write := func(name, text string, mode os.FileMode) string {
		f := filepath.Join(dir, name)
		must(t, os.WriteFile(f, []byte(text), mode))
		return f
	}
	busy, err := net.Listen("tcp", "127.0.0.1:7741")
	must(t, err)
	defer busy.Close()
	asNobody := func(c *exec.Cmd) *exec.Cmd {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return c
	}
	foreign := filepath.Join(dir, "foreign")
	must(t, os.Mkdir(foreign, 0o700))
	// Programs under a temporary directory of mode 0700 cannot be run by nobody, so they are lent a copy.
	lent := func(name string) string {
		data, err := os.ReadFile(name)
		must(t, err)
		return write(filepath.Base(name), string(data), 0o755)
	}
	for _, c := range []struct {
		name string
		cmd  *exec.Cmd
		code int
		says []string
	}{
		{"unknown key, collector", exec.Command(bin.spile, "collector", "--config", write("a.yaml", "lissten: x\n", 0o600)), 2, []string{"lissten"}},
		{"unknown key, agent", exec.Command(bin.agent, "--config", write("b.yaml", "colector: x\n", 0o600)), 2, []string{"colector"}},
		{"unknown flag", exec.Command(bin.spile, "calls", "--folow"), 2, []string{"folow"}},
		{"unknown verb", exec.Command(bin.spile, "observe"), 2, []string{"observe"}},
		{"bad selector", exec.Command(bin.agent, "--target", "process=nginx"), 2, []string{"process", "exe="}},
		{"bad selector, up", exec.Command(bin.spile, "up", "--data", filepath.Join(dir, "u"), "--target", "pid=x"), 2, []string{"pid"}},
		{"port in use", exec.Command(bin.spile, "collector", "--data", filepath.Join(dir, "c")), 1, []string{"7741", "--agents-listen"}},
		{"no collector", exec.Command(bin.spile, "status", "--data", filepath.Join(dir, "nothing")), 3, []string{"spile up"}},
		{"no root, up", asNobody(exec.Command(lent(bin.spile), "up", "--data", filepath.Join(dir, "n"))), 1, []string{"root"}},
		{"no root, agent", asNobody(exec.Command(lent(bin.agent), "--data", filepath.Join(dir, "n"))), 1, []string{"root"}},
		{"foreign data", asNobody(exec.Command(lent(bin.spile), "collector", "--data", foreign)), 1, []string{foreign}},
		{"no such recording", exec.Command(bin.agent, "replay", filepath.Join(dir, "none")), 1, []string{"none"}},
		{"not a recording", exec.Command(bin.agent, "replay", write("text", "hello, world; this is no recording", 0o600)), 1, []string{"text"}},
		{"not calls", exec.Command(bin.spile, "replay", write("lines", "{\"time\": 3}\n", 0o600)), 1, []string{"line 1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, said := exitCode(t, c.cmd)
			if code != c.code {
				t.Errorf("exit status %d, want %d: %s", code, c.code, said)
			}
			if lines := strings.Count(strings.TrimSpace(said), "\n"); lines > 3 {
				t.Errorf("%d lines, want one clear line:\n%s", lines+1, said)
			}
			for _, s := range c.says {
				if !strings.Contains(said, s) {
					t.Errorf("it does not say %q: %s", s, said)
				}
			}
		})
	}
}

// TestSmokeTokenIsAsked queries the TCP listener with and without the token.
func TestSmokeTokenIsAsked(t *testing.T) {
	needsRoot(t)
	p := startPair(t)
	code, said := exitCode(t, exec.Command(p.bin.spile, "status", "--server", "127.0.0.1:7740"))
	if code == 0 || !strings.Contains(said, "token") {
		t.Errorf("without the token: status %d: %s", code, said)
	}
	output(t, p.bin.spile, "status", "--server", "127.0.0.1:7740", "--token-file", filepath.Join(p.data, "token"))
}

// TestSmokeNoBTF hides the kernel's type information from the agent.
func TestSmokeNoBTF(t *testing.T) {
	needsRoot(t)
	bin := binaries(t)
	dir := t.TempDir()
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs none /sys/kernel/btf && exec "$0" doctor`, bin.agent)
	out, _ := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "BTF") {
		t.Errorf("doctor without BTF: status %d:\n%s", cmd.ProcessState.ExitCode(), out)
	}
	product := exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs none /sys/kernel/btf && exec "$0" up --target netns=self --data "$1/up"`, bin.spile, dir)
	began := time.Now()
	code, said := exitCode(t, product)
	if code != 1 || !strings.Contains(said, "BTF") || time.Since(began) > 10*time.Second {
		t.Errorf("up without BTF: status %d after %s:\n%s", code, time.Since(began), said)
	}
	up := exec.Command("unshare", "--mount", "sh", "-c", `mount -t tmpfs none /sys/kernel/btf && exec "$0" record "$1/r" --target netns=self --data "$1"`, bin.agent, dir)
	started := time.Now()
	out, _ = up.CombinedOutput()
	if up.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "BTF") || time.Since(started) > 10*time.Second {
		t.Errorf("record without BTF: status %d after %s:\n%s", up.ProcessState.ExitCode(), time.Since(started), out)
	}
}
