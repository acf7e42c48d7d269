package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/spile/spile/collector/cli"
)

// TestEveryVerbExplainsItself reads every page of help: short, and with an example.
func TestEveryVerbExplainsItself(t *testing.T) {
	w, _, _ := testWorld("")
	root := cli.Root(w.World, upVerb(w), collectorVerb(w), cli.ReplayVerb(w.World, replayer(w)))
	cli.EnrollVerb(w.World, root, func(string, string, string, bool) error { return nil })
	var read func(*cobra.Command)
	read = func(cmd *cobra.Command) {
		args := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		help := ok(t, args...)
		if n := strings.Count(help, "\n"); n >= 40 || !strings.Contains(help, "Examples:") && cmd.Name() != "version" {
			t.Errorf("%s: %d lines:\n%s", cmd.CommandPath(), n, help)
		}
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				read(sub)
			}
		}
	}
	read(root)
	for _, arg := range []string{"version", "--version"} {
		if out := ok(t, arg); out != "spile test\n" {
			t.Errorf("%s: %q", arg, out)
		}
	}
}

// TestWellKnownSocket finds a collector without --data through the link that root's collector leaves.
func TestWellKnownSocket(t *testing.T) {
	dir, data := t.TempDir(), t.TempDir()
	w, _, errs := testWorld("", "collector", "--data", data, "--listen", "127.0.0.1:0", "--agents-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
	w.runDir = filepath.Join(dir, "run")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() { done <- run(ctx, w) }()
	link := filepath.Join(w.runDir, "query.sock")
	until(t, "the link answers", func() bool {
		code, _, _ := spile(t, "status", "--server", "unix:"+link)
		return code == 0
	})
	// A second one leaves the link alone, at its start and at its end.
	second, _, said := testWorld("", "collector", "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--agents-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
	second.runDir = w.runDir
	ctx2, cancel2 := context.WithCancel(context.Background())
	done2 := make(chan int, 1)
	go func() { done2 <- run(ctx2, second) }()
	until(t, "the second says that it has no link", func() bool { return strings.Contains(said.String(), "another collector answers") })
	cancel2()
	if code := <-done2; code != 0 {
		t.Errorf("the second: exit %d: %s", code, said)
	}
	if to, err := os.Readlink(link); err != nil || to != filepath.Join(data, "query.sock") {
		t.Errorf("after the second the link leads to %q: %v", to, err)
	}
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit %d: %s", code, errs)
	}
	if _, err := os.Lstat(link); !os.IsNotExist(err) {
		t.Errorf("the link stays: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(data, "query.sock")); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
}

func TestOneCollectorPerDirectory(t *testing.T) {
	r := start(t, t.TempDir())
	code, _, errs := spile(t, "collector", "--data", r.data, "--listen", "127.0.0.1:0", "--agents-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
	if code != 1 || !strings.Contains(errs, "--data") || strings.Count(errs, "\n") != 1 {
		t.Errorf("a second collector: %d %s", code, errs)
	}
	ok(t, "status", "--data", r.data)
}

// TestNothingIsForOthers looks at the mode of everything that a collector and an enrolment leave behind.
func TestNothingIsForOthers(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "made"))
	out := filepath.Join(t.TempDir(), "n1")
	ok(t, "agents", "enroll", "n1", "--data", r.data, "--out", out)
	r.agent("n2", 1).calls(shopCall("1", "/x", 200))
	r.stop()
	private := 0
	for _, root := range []string{r.data, out} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Type() == fs.ModeSymlink {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			// The journal's own files are behind its directory's mode.
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: %s", path, info.Mode())
			}
			private++
			if d.IsDir() && d.Name() == "journal" {
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if private < 9 {
		t.Errorf("only %d entries: nothing to see", private)
	}
}

// TestCallsShowAtOnce measures from the receipt to a follower's line.
func TestCallsShowAtOnce(t *testing.T) {
	r := start(t, t.TempDir())
	a := r.agent("n1", 1)
	w, out, _ := testWorld("", "calls", "-f", "--data", r.data, "-o", "json")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() { done <- run(ctx, w) }()
	a.calls(shopCall("1", "/first", 200))
	until(t, "the follower follows", func() bool { return strings.Contains(out.String(), "/first") })
	a.calls(shopCall("2", "/second", 200))
	begun := time.Now()
	until(t, "the next call shows", func() bool { return strings.Contains(out.String(), "/second") })
	if took := time.Since(begun); took > time.Second {
		t.Errorf("it took %s", took)
	}
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("an interrupted follower exits with %d", code)
	}
}
