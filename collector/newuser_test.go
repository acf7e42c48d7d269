package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/spile/spile/proto/spile/v1"
)

func TestEnrollKeepsTheKeyThatIsThere(t *testing.T) {
	data, out := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "n1")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	enroll := []string{"agents", "enroll", "n1", "--data", data, "--out", out}
	key := func() string {
		b, err := os.ReadFile(filepath.Join(out, keyName))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	ok(t, enroll...)
	first := key()
	code, _, errs := spile(t, enroll...)
	if code != 1 || !strings.Contains(errs, filepath.Join(out, keyName)) || !strings.Contains(errs, "--force") || strings.Count(errs, "\n") != 1 {
		t.Errorf("again: exit %d: %s", code, errs)
	}
	if key() != first {
		t.Error("the key was replaced")
	}
	ok(t, append(enroll, "--force")...)
	if key() == first {
		t.Error("--force did not replace the key")
	}
}

// TestNothingYetIsSaid asks a collector that has seen nothing, then one that has seen a call from its client's end only.
func TestNothingYetIsSaid(t *testing.T) {
	r := start(t, t.TempDir())
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"calls"}, "no call yet"},
		{[]string{"calls", "--status", "5xx"}, "no such call"},
		{[]string{"calls", "--since", "5m"}, "no such call"},
		{[]string{"endpoints"}, "no endpoint yet"},
		{[]string{"services"}, "no service yet"},
	} {
		code, out, errs := spile(t, append(c.args, "--data", r.data)...)
		if code != 0 || out != "" || !strings.Contains(errs, c.says) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%v: exit %d, %q, %q", c.args, code, out, errs)
		}
	}
	if out, want := ok(t, "status", "--data", r.data), "nothing yet"; strings.Contains(out, want) || !strings.Contains(out, filepath.Join(r.data, "query.sock")) {
		t.Errorf("status: %s", out)
	}
	seen := shopCall("1", "/users/1", 200)
	seen.Observed, seen.Destination = v1.Observed_OBSERVED_CLIENT, &v1.Peer{Address: "10.0.0.9", Port: 8443}
	r.agent("n1", 1).calls(seen)
	until(t, "the call is in the inventory", func() bool { return len(byRoute(t, r)) == 1 })
	for _, verb := range []string{"endpoints", "services"} {
		if out := ok(t, verb, "--data", r.data); !strings.Contains(out, " 1 (1 client)  ") {
			t.Errorf("%s:\n%s", verb, out)
		}
	}
}

// TestHelpFitsATerminal: no line of any verb's help is wider than 100 columns.
func TestHelpFitsATerminal(t *testing.T) {
	for _, verb := range []string{"", "up", "collector", "replay", "calls", "services", "endpoints", "findings", "agents", "agents enroll", "sinks", "status", "version"} {
		out := ok(t, append(strings.Fields(verb), "--help")...)
		for line := range strings.Lines(out) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > 100 {
				t.Errorf("spile %s --help: %d columns: %s", verb, n, line)
			}
		}
		if !strings.Contains(out, "Usage:") || verb == "up" && !strings.Contains(out, "spile up -- --cpu-budget 0.5") {
			t.Errorf("spile %s --help: %s", verb, out)
		}
	}
}
