package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func environment(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, p := range pairs {
			if k, v, _ := strings.Cut(p, "="); k == name {
				return v, true
			}
		}
		return "", false
	}
}

func TestFlagBeatsVariableBeatsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte("collector: file:1\nnode: file\ndata: /file\ntarget: [netns=self, '!port=22']\nring_bytes: 1048576\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var c config
	rest, err := c.parse([]string{"--collector", "flag:1", "x", "--config", file, "-o", "json"}, environment("SPILE_COLLECTOR=env:1", "SPILE_NODE=env"))
	if err != nil {
		t.Fatal(err)
	}
	if c.collector != "flag:1" || c.node != "env" || c.data != "/file" || c.ringBytes != 1<<20 || c.output != "json" || !slices.Equal(rest, []string{"x"}) {
		t.Errorf("got %+v, rest %v", c, rest)
	}
	if !slices.Equal(c.targets, []string{"netns=self", "!port=22"}) {
		t.Errorf("targets %q", c.targets)
	}
	c = config{}
	if _, err := c.parse([]string{"--config", file, "--target", "pid=1"}, environment("SPILE_TARGET=port=80 port=81")); err != nil || !slices.Equal(c.targets, []string{"pid=1"}) {
		t.Errorf("a flag replaces the lists below it: %q, %v", c.targets, err)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, c := range []struct {
		args []string
		env  []string
		code int
		says string
	}{
		{[]string{"--config", write("a", "colector: x\n")}, nil, exitUsage, `unknown key "colector"`},
		{[]string{"--config", write("b", "ring-bytes: 1\n")}, nil, exitUsage, `unknown key "ring-bytes"`},
		{[]string{"--config", write("c", "ring_bytes: many\n")}, nil, exitUsage, "c:1: ring_bytes: many: want a power of two"},
		{[]string{"--config", write("d", "\t:")}, nil, exitUsage, "read the configuration"},
		{[]string{"--config", filepath.Join(dir, "none")}, nil, exitError, "read the configuration"},
		{[]string{"--ring-bytes"}, nil, exitUsage, "--ring-bytes needs a value: want a power of two from 64KiB to 1GiB, such as 16MiB or 4194304"},
		{[]string{"--ca"}, nil, exitUsage, "--ca needs a value (spile-agent --help lists the flags)"},
		{[]string{"--observe"}, nil, exitUsage, "--observe is no flag (spile-agent --help"},
		{[]string{"--ring-bytes", "100000"}, nil, exitUsage, "--ring-bytes 100000: want a power of two from 64KiB to 1GiB"},
		{[]string{"--message-bytes", "64 KiB"}, nil, exitUsage, `--message-bytes "64 KiB": want bytes from 1KiB to 1GiB, such as 4MiB or 4194304`},
		{[]string{"--body-bytes=9999999999GiB"}, nil, exitUsage, "--body-bytes 9999999999GiB: want bytes from 0 (no limit)"},
		{[]string{"--socket-hook", "best"}, nil, exitUsage, "--socket-hook best: want tp_btf, fexit, kprobe or syscall"},
		{[]string{"--governor-stage", "detached"}, nil, exitUsage, "--governor-stage detached: want full, no_bodies, no_responses or sampled"},
		{[]string{"--raw=perhaps"}, nil, exitUsage, "--raw perhaps: want true or false"},
		{nil, []string{"SPILE_RING_BYTES=x"}, exitUsage, "SPILE_RING_BYTES=x: want a power of two"},
		{[]string{"observe"}, nil, exitUsage, "unknown verb"},
		{[]string{"replay"}, nil, exitUsage, "the file is missing"},
		{[]string{"replay", "a", "-o", "xml"}, nil, exitUsage, "want table or json"},
		{[]string{"--target", "process=x"}, nil, exitUsage, `--target: invalid target "process=x"`},
		{[]string{"--deny", "pid=1"}, nil, exitUsage, `--deny: invalid entry of the denylist "pid=1": unknown kind "pid"; use exe=GLOB or cgroup=PATH`},
		{[]string{"--cpu-budget", "-1"}, nil, exitUsage, "--cpu-budget -1: want cores from 0 (no limit) to 65536, such as 0.5 or 50% (of one)"},
		{nil, []string{"SPILE_PROBE_BUDGET=NaN"}, exitUsage, "SPILE_PROBE_BUDGET=NaN: want cores"},
		{[]string{"--library-budget", "many"}, nil, exitUsage, "--library-budget many: want cores"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), world{c.args, environment(c.env...), &stdout, &stderr})
		if code != c.code || !strings.Contains(stderr.String(), c.says) || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%v %v: status %d, says %q; want %d, %q", c.args, c.env, code, &stderr, c.code, c.says)
		}
	}
}

// TestQuantities: people write 16MiB and 5%.
func TestQuantities(t *testing.T) {
	var c config
	args := []string{"--ring-bytes", "1MiB", "--message-bytes", "2048", "--body-bytes=1GiB", "--spool-bytes", "64MiB", "--cpu-budget", "5%", "--probe-budget", "0.25", "--governor-stage", ""}
	if _, err := c.parse(args, environment("SPILE_LIBRARY_BUDGET=150%")); err != nil {
		t.Fatal(err)
	}
	if c.ringBytes != 1<<20 || c.message != 2048 || c.bodies != 1<<30 || c.spool != 64<<20 || c.cpu != 0.05 || c.probes != 0.25 || c.library != 1.5 || c.stage != "" {
		t.Errorf("%+v", c)
	}
	c = config{}
	if _, err := c.parse(nil, environment()); err != nil || c.ringBytes != 16<<20 || c.bodies != 8<<20 || c.cpu != 1 || c.output != "table" || c.budget != 0 {
		t.Errorf("defaults: %+v, %v", c, err)
	}
	// What help prints as a default is what a flag takes.
	c.flags().VisitAll(func(f *flag.Flag) {
		if _, many := f.Value.(*list); many || f.DefValue == "" {
			return
		}
		if err := f.Value.Set(f.DefValue); err != nil {
			t.Errorf("--%s %s: %v", f.Name, f.DefValue, err)
		}
	})
}

func TestHelpIsOnStdout(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {"replay", "-h"}} {
		var stdout, stderr bytes.Buffer
		if code := run(context.Background(), world{args, environment(), &stdout, &stderr}); code != 0 || stderr.Len() > 0 || !strings.Contains(stdout.String(), "--target") {
			t.Errorf("%v: status %d, stderr %q, stdout %q", args, code, &stderr, &stdout)
		}
		for line := range strings.Lines(stdout.String()) {
			if len(line) > helpWidth+1 {
				t.Errorf("a line of %d columns: %s", len(line)-1, line)
			}
		}
	}
}

func TestInstallKeySurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	if _, ok, err := loadKey(dir); ok || err != nil {
		t.Fatalf("a key out of nothing: %v %v", ok, err)
	}
	want := installKey{bytes.Repeat([]byte{7}, keyBytes), 0x01020304}
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	got, ok, err := loadKey(dir)
	if err != nil || !ok || !bytes.Equal(got.key, want.key) || got.epoch != want.epoch {
		t.Errorf("got %v %v %v", got, ok, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestOneAgentPerDataDirectory(t *testing.T) {
	dir := t.TempDir()
	f, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := lock(dir); err == nil || !strings.Contains(err.Error(), "another spile-agent") {
		t.Errorf("a second lock: %v", err)
	}
}
