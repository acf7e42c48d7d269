package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	diagnose "github.com/spile/spile/agent/doctor"
	"github.com/spile/spile/agent/probe"
	"github.com/spile/spile/agent/target"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDoctorSaysWhichPlaceIsInUse: what the code allows is one thing, what an agent has found another.
func TestDoctorSaysWhichPlaceIsInUse(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, probe.LearnedFile, `{"builds": [
		{"build_id": "aa", "survived": true, "inner": {"0x200 ssl_read_enter ssl_read_exit": "agreed", "0x300 ssl_write_enter ssl_write_exit": "disagreed"}, "seen": "2026-11-22T01:02:03Z"},
		{"build_id": "bb", "seen": "2026-11-22T01:02:03Z"}, {"build_id": "dd", "seen": "2026-11-22T01:02:03Z"}]}`)
	write(t, dir, probe.DeniedFile, `{"denied": [{"build_id": "dd", "library": "OpenSSL", "path": "/x", "why": "SIGTRAP", "when": "2026-11-22T01:02:03Z"}]}`)
	k := look(dir)
	at := func(offset uint64, what string) target.Site {
		return target.Site{Symbol: "SSL_" + what, Inner: &target.Place{Offset: offset, Enter: "ssl_" + what + "_enter", Exit: "ssl_" + what + "_exit"}}
	}
	for _, c := range []struct {
		build string
		site  target.Site
		want  string
	}{
		{"aa", at(0x200, "read"), "the inner place"},
		{"aa", at(0x300, "write"), "this place; the inner one showed other calls"},
		{"aa", at(0x208, "read"), "this place; the inner one is used once 16 live calls have agreed"},
		{"aa", target.Site{Symbol: "SSL_free"}, "this place"},
		{"bb", at(0x200, "read"), "this place; the inner one is used once"},
		{"cc", at(0x200, "read"), "nothing so far: no program used this build"},
		{"dd", at(0x200, "read"), "none: it is denied since 2026-11-22 01:02"},
		{"", at(0x200, "read"), "not kept: the file has no build id"},
	} {
		if got := k.inUse(target.File{ID: target.Identity{BuildID: c.build}}, c.site); !strings.HasPrefix(got, c.want) {
			t.Errorf("build %q, %s: %q, want %q", c.build, c.site.Symbol, got, c.want)
		}
	}
	if got := look(t.TempDir()).inUse(target.File{ID: target.Identity{BuildID: "aa"}}, at(0x200, "read")); got != "" {
		t.Errorf("nobody knows, and it says %q", got)
	}
}

// TestDoctorLooksWhereAnAgentRuns: of the usual places the one of a running agent, else where one has run.
func TestDoctorLooksWhereAnAgentRuns(t *testing.T) {
	empty, old, running := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "agent")
	write(t, old, probe.LearnedFile, `{"builds": [{"build_id": "aa"}]}`)
	if k := lookUp(empty); k.there || !strings.Contains(k.check().Detail, "looked in "+empty+": no agent has kept anything there") {
		t.Errorf("%+v, %s", k, k.check().Detail)
	}
	if k := lookUp(empty, old); k.dir != old || k.pid != 0 || !strings.Contains(k.check().Detail, "looked in "+empty+" and in "+old+": no agent runs with "+old+"; the last one knew 1 builds") {
		t.Errorf("%s", k.check().Detail)
	}
	held, err := lock(running)
	if err != nil {
		t.Fatal(err)
	}
	if k := lookUp(old, running); k.dir != running || k.pid != os.Getpid() || !strings.Contains(k.check().Detail, fmt.Sprintf("the agent that runs (process %d) keeps its data in %s", os.Getpid(), running)) {
		t.Errorf("%s", k.check().Detail)
	}
	held.Close()
	if k := lookUp(old, running); k.dir != old || k.pid != 0 {
		t.Errorf("nobody runs: %s", k.check().Detail)
	}
	write(t, old, probe.LearnedFile, `{"builds": `)
	if c := look(old).check(); c.Verdict != diagnose.Warn || !strings.Contains(c.Detail, probe.LearnedFile) || c.Remedy == "" {
		t.Errorf("a broken file: %+v", c)
	}
}

// TestDoctorTakesData runs the verb as a person would.
func TestDoctorTakesData(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, probe.DeniedFile, `{"denied": [{"build_id": "dd", "library": "OpenSSL", "path": "/x", "why": "SIGTRAP", "when": "2026-11-22T01:02:03Z"}]}`)
	_, out, said := agentVerb(t, "doctor", "--data", dir)
	flat := strings.Join(strings.Fields(out), " ")
	for _, want := range []string{"data looked in " + dir, "spile-agent allow dd --data " + dir} {
		if !strings.Contains(flat, want) {
			t.Errorf("%q is missing: %s%s", want, out, said)
		}
	}
	for line := range strings.Lines(out) {
		if n := utf8.RuneCountInString(line) - 1; n > helpWidth && !strings.Contains(line, dir) {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
	_, out, _ = agentVerb(t, "doctor", "--data", dir, "-o", "json")
	found := false
	for line := range strings.Lines(out) {
		var c diagnose.Check
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		found = found || c.Name == "data" && strings.Contains(c.Detail, dir)
	}
	if !found {
		t.Errorf("no check of the data: %s", out)
	}
}

func TestChecksArePrintedInColumns(t *testing.T) {
	var out bytes.Buffer
	if err := printChecks(&out, []diagnose.Check{{Name: "kernel", Verdict: diagnose.OK, Detail: "fine"},
		{Name: "probe_sites", Verdict: diagnose.Warn, Detail: strings.Repeat("some words ", 20), Remedy: "do this", Sites: []diagnose.Site{{File: "/lib/x", Library: "X", InUse: "this place"}}}}); err != nil {
		t.Fatal(err)
	}
	const want = `ok    kernel       fine
warn  probe_sites  some words some words some words some words some words some words some words some
                   words some words some words some words some words some words some words some
                   words some words some words some words some words some words
                   → do this
                     /lib/x (X, build id none)
                       ; in use: this place
`
	if out.String() != want {
		t.Errorf("got\n%s, want\n%s", out.String(), want)
	}
}
