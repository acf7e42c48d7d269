package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	diagnose "github.com/spile/spile/agent/doctor"
	"github.com/spile/spile/agent/probe"
)

const deniedList = `{"denied": [
	{"build_id": "aa11", "library": "OpenSSL", "path": "/lib/libssl.so.3", "why": "SIGTRAP inside a probed call", "when": "2026-11-22T01:02:03Z"},
	{"build_id": "bb22", "library": "GnuTLS", "path": "/lib/libgnutls.so.30", "why": "SIGILL at the probed instruction", "when": "2026-11-22T02:02:03Z"},
	{"build_id": "aa11", "file": {"device": 2049, "inode": 77, "size": 9, "modified": 5}, "library": "OpenSSL", "path": "/home/eve/libssl.so.3", "why": "SIGILL", "when": "2026-11-21T02:02:03Z"}]}`

func deniedIn(t *testing.T, list string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, probe.DeniedFile), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// agentVerb runs the program in this process.
func agentVerb(t *testing.T, args ...string) (code int, out, said string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), world{args, environment(), &stdout, &stderr})
	return code, stdout.String(), stderr.String()
}

func TestAllow(t *testing.T) {
	dir := deniedIn(t, deniedList)
	if code, _, said := agentVerb(t, "allow", "cc33", "--data", dir); code != exitError || !strings.Contains(said, "denied are bb22, aa11, 2049:77") {
		t.Errorf("a build that is not denied: %d, %q", code, said)
	}
	if code, out, _ := agentVerb(t, "allow", "2049:77", "--data", dir); code != exitOK || !strings.Contains(out, "allowed /home/eve/libssl.so.3 (the file 2049:77 alone: others than root may write into it)") {
		t.Errorf("a file: %d, %q", code, out)
	}
	if code, out, said := agentVerb(t, "allow", "aa11", "--data", dir); code != exitOK || !strings.Contains(out, "allowed /lib/libssl.so.3 (build id aa11)") || strings.Contains(out, "bb22") {
		t.Errorf("one: %d, %q, %q", code, out, said)
	}
	if left, err := probe.Denials(dir); err != nil || len(left) != 1 || left[0].BuildID != "bb22" {
		t.Errorf("left %+v, %v", left, err)
	}
	if code, out, _ := agentVerb(t, "allow", "all", "--data", dir); code != exitOK || !strings.Contains(out, "bb22") {
		t.Errorf("all: %d, %q", code, out)
	}
	if code, _, said := agentVerb(t, "allow", "all", "--data", dir); code != exitError || !strings.Contains(said, "no build is denied in "+dir) || !strings.Contains(said, "spile up") {
		t.Errorf("nothing left: %d, %q", code, said)
	}
	if code, _, said := agentVerb(t, "allow"); code != exitUsage || !strings.Contains(said, "the build id is missing") {
		t.Errorf("no build: %d, %q", code, said)
	}
}

// TestAllowLooksWhereAgentsKeepIt: nobody says where, so both usual places are looked at.
func TestAllowLooksWhereAgentsKeepIt(t *testing.T) {
	alone, ofUp := t.TempDir(), deniedIn(t, deniedList)
	var out bytes.Buffer
	if err := allowIn(&out, "bb22", alone, ofUp); err != nil || !strings.Contains(out.String(), "allowed /lib/libgnutls.so.30") {
		t.Errorf("%v, %q", err, &out)
	}
	if left, err := probe.Denials(ofUp); err != nil || len(left) != 2 {
		t.Errorf("left %+v, %v", left, err)
	}
	if err := allowIn(&out, "cc33", alone, t.TempDir()); err == nil || !strings.Contains(err.Error(), "no build is denied in "+alone+" or in ") {
		t.Error(err)
	}
	if dirs := dataDirs(config{data: "/d"}); len(dirs) != 1 {
		t.Errorf("told where, it looks in %q", dirs)
	}
	if dirs := dataDirs(config{data: defaultData}); len(dirs) != 2 || dirs[1] != upData {
		t.Errorf("not told where, it looks in %q", dirs)
	}
}

func TestDoctorTellsOfDeniedBuilds(t *testing.T) {
	dir := deniedIn(t, deniedList)
	checks := deniedChecks(dir)
	if len(checks) != 3 || checks[0].Verdict != diagnose.Warn || !strings.Contains(checks[1].Detail, "SIGTRAP") || checks[1].Remedy != "once the cause is gone: spile-agent allow aa11 --data "+dir ||
		!strings.Contains(checks[2].Detail, "2049:77 alone") || !strings.HasSuffix(checks[2].Remedy, "allow 2049:77 --data "+dir) {
		t.Errorf("%+v", checks)
	}
	if checks := deniedChecks(t.TempDir()); len(checks) != 1 || checks[0].Verdict != diagnose.OK {
		t.Errorf("no list: %+v", checks)
	}
	if checks := deniedChecks(deniedIn(t, "{")); len(checks) != 1 || checks[0].Verdict != diagnose.Fail || checks[0].Remedy == "" {
		t.Errorf("a list that cannot be read: %+v", checks)
	}
}
