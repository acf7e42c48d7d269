package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestSafetyForgedBuildID: who makes a library with the build id of another, and dies of probes in it, has his own denied.
func TestSafetyForgedBuildID(t *testing.T) {
	needsRoot(t)
	genuine := buildCrasher(t, "genuine")
	forged := crasher{t, t.TempDir(), "forged"}
	copied(t, genuine.library(), forged.library())
	copied(t, filepath.Join(genuine.dir, genuine.name), filepath.Join(forged.dir, forged.name))
	const nobody = 65534
	must(t, os.Chown(forged.library(), nobody, nobody))
	p := up(t)
	begin(t, exec.Command(filepath.Join(genuine.dir, genuine.name), "on", "100000"))
	if died := forged.whileProbed("copies"); died != syscall.SIGTRAP {
		t.Fatalf("it died of %v, want SIGTRAP", died)
	}
	p.isDenied(forged)
	if said, died := forged.run("copies", 500); died != 0 || said != "not probed" {
		t.Errorf("denied, it says %q and dies of %v", said, died)
	}
	if died := genuine.whileProbed("clean"); died != 0 {
		t.Errorf("the genuine one died of %v", died)
	}
	if kept := p.denied(); !strings.Contains(kept, `"inode"`) || strings.Contains(kept, genuine.library()) {
		t.Errorf("kept is %s", kept)
	}
	eventually(t, 3*healthEvery, "what is denied is told", func() bool {
		rows, others := forged.probes(p), genuine.probes(p)
		return len(rows) == 1 && rows[0].State == "denied" && strings.Contains(rows[0].Reason, "this file alone") &&
			len(others) == 1 && others[0].State == "attached"
	})
}

// TestSafetyCanaryWithoutACall: a build that is mapped, and that nobody calls, is not said to bear probes.
func TestSafetyCanaryWithoutACall(t *testing.T) {
	needsRoot(t)
	c := buildCrasher(t, "idle")
	p := up(t)
	idle := exec.Command("python3", "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1]); sys.stdin.read()", c.library())
	in, err := idle.StdinPipe()
	must(t, err)
	defer in.Close()
	begin(t, idle)
	eventually(t, 3*healthEvery, "it is attached, and that is all", func() bool {
		rows := c.probes(p)
		return len(rows) == 1 && rows[0].State == "attached" && strings.Contains(rows[0].Reason, "no call of it was seen")
	})
	if status := p.status(); !strings.Contains(status, "without a call so far") {
		t.Errorf("status says nothing of it:\n%s", status)
	}
	if out := string(output(t, p.bin.agent, "doctor", "--data", filepath.Join(p.data, "agent"))); !strings.Contains(out, "canary") || !strings.Contains(strings.Join(strings.Fields(out), " "), "without a call in its first process") {
		t.Errorf("doctor says nothing of it:\n%s", out)
	}
	if died := c.whileProbed("clean"); died != 0 {
		t.Fatalf("it died of %v", died)
	}
	eventually(t, 3*healthEvery, "its first calls are noted", func() bool {
		rows := c.probes(p)
		return len(rows) == 1 && rows[0].State == "attached" && rows[0].Reason == ""
	})
}
