package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMistakesAreOneClearLine makes the mistakes that people make and expects what to do about them, and the code.
func TestMistakesAreOneClearLine(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := write(t, "file", "x")
	free := []string{"--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--agents-listen", "127.0.0.1:0"}
	with := func(args ...string) []string {
		return append(append([]string{"collector", "--data", t.TempDir()}, free...), args...)
	}
	gone := t.TempDir()
	for _, c := range []struct {
		name string
		args []string
		env  []string
		code int
		says []string
	}{
		{"unknown verb", []string{"observe"}, nil, 2, []string{"observe", "--help"}},
		{"unknown flag", []string{"calls", "--folow"}, nil, 2, []string{"folow", "spile calls --help"}},
		{"argument too many", []string{"status", "now"}, nil, 2, []string{"now"}},
		{"format", []string{"calls", "-o", "xml"}, nil, 2, []string{"xml", "json"}},
		{"since", []string{"calls", "--since", "yesterday"}, nil, 2, []string{"--since", "5m"}},
		{"status filter", []string{"calls", "--status", "20"}, nil, 2, []string{"404"}},
		{"status class", []string{"calls", "--status", "9xx"}, nil, 2, []string{"4xx"}},
		{"since after until", []string{"calls", "--since", "1m", "--until", "2h"}, nil, 2, []string{"--since", "--until"}},
		{"last below one", []string{"calls", "-n", "-3"}, nil, 2, []string{"--last", "1 to 10000"}},
		{"last is no number", []string{"calls", "--last", "few"}, nil, 2, []string{`--last "few": want a number from 1 to 10000`}},
		{"last without a number", []string{"calls", "-n"}, nil, 2, []string{"--last needs a value: only the newest N, at most 10000"}},
		{"no yes or no", []string{"endpoints", "--all=q"}, nil, 2, []string{`--all "q": want true or false`}},
		{"no duration", []string{"up", "--journal-age", "3"}, nil, 2, []string{`--journal-age "3": want a duration, such as 72h or 30m`}},
		{"no server", []string{"status", "--server"}, nil, 2, []string{"--server needs a value: address of the collector to ask"}},
		{"no duration in a file", with("--config", write(t, "f.yaml", "journal_age: 3\n")), nil, 2, []string{"f.yaml:1: journal_age", "want a duration, such as 72h"}},
		{"not", []string{"calls", "--not", "color=red"}, nil, 2, []string{"color"}},
		{"follow until", []string{"calls", "-f", "--until", "1m"}, nil, 2, []string{"--follow"}},
		{"no file", []string{"replay"}, nil, 2, []string{"replay"}},
		{"two outputs", []string{"replay", "x", "--calls", "--endpoints"}, nil, 2, []string{"calls", "endpoints"}},
		{"server form", []string{"status", "--server", "nowhere"}, nil, 2, []string{"HOST:PORT"}},
		{"server afar in clear", []string{"status", "--server", "192.0.2.1:7740"}, nil, 2, []string{"--ca"}},
		{"no collector", []string{"status", "--data", gone}, nil, 3, []string{gone, "spile up"}},
		{"nobody at a port", []string{"status", "--server", closed(t)}, nil, 3, []string{"spile up"}},
		{"unknown key", with("--config", write(t, "a.yaml", "lissten: x\n")), nil, 2, []string{"a.yaml:1", "lissten"}},
		{"key twice", with("--config", write(t, "d.yaml", "http_name: x\nhttp_name: y\n")), nil, 2, []string{"d.yaml:2", "http_name"}},
		{"dash in a key", with("--config", write(t, "e.yaml", "http-name: x\n")), nil, 2, []string{"e.yaml:1", "http-name"}},
		{"not YAML", with("--config", write(t, "b.yaml", "a: [\n")), nil, 2, []string{"b.yaml"}},
		{"list for one", []string{"collector", "--config", write(t, "c.yaml", "http_name: [x]\ndata: [a, b]\n")}, nil, 2, []string{"c.yaml:2", "data"}},
		{"no such file", with("--config", "/nonexistent.yaml"), nil, 1, []string{"/nonexistent.yaml"}},
		{"unknown variable", with(), []string{"SPILE_LISSTEN=x"}, 2, []string{"SPILE_LISSTEN"}},
		{"bad variable", with(), []string{"SPILE_JOURNAL_AGE=long"}, 2, []string{"SPILE_JOURNAL_AGE", `"long": want a duration`}},
		{"address", with("--http-listen", "7742"), nil, 2, []string{"--http-listen"}},
		{"size", with("--journal-bytes", "lots"), nil, 2, []string{"--journal-bytes", "4GB"}},
		{"age", with("--journal-age", "1s"), nil, 2, []string{"--journal-age"}},
		{"sink kind", with("--sink", "carrier-pigeon"), nil, 2, []string{"carrier-pigeon"}},
		{"sink kind as a key", with("--sink", "kind=file,format=ocsf"), nil, 2, []string{"kind=file", "file, stdout"}},
		{"sink key", with("--sink", "file,pat=x"), nil, 2, []string{"pat"}},
		{"sinks of one name", with("--sink", "stdout", "--sink", "stdout,format=ocsf"), nil, 2, []string{"stdout", "name="}},
		{"port in use", with("--agents-listen", taken.Addr().String()), nil, 1, []string{taken.Addr().String(), "--agents-listen"}},
		{"data is a file", []string{"collector", "--data", file}, nil, 1, []string{file, "--data"}},
		{"enroll without a name", []string{"agents", "enroll", "--out", gone}, nil, 2, []string{"node"}},
		{"enroll nowhere", []string{"agents", "enroll", "n1", "--data", gone}, nil, 2, []string{"--out"}},
		{"enroll without a collector", []string{"agents", "enroll", "n1", "--data", gone + "/x", "--out", gone}, nil, 1, []string{gone + "/x", "--data"}},
		{"enroll a bad name", []string{"agents", "enroll", "../n1", "--data", gone, "--out", gone}, nil, 2, []string{"../n1"}},
		{"bad target", []string{"up", "--target", "pid=x"}, nil, 2, []string{"pid=x", "port=N"}},
		{"agent's flag without --", []string{"up", "--cpu-budget", "1"}, nil, 2, []string{"--cpu-budget", "spile up -- --cpu-budget", "spile up --help"}},
		{"argument of up", []string{"up", "nginx"}, nil, 2, []string{`"nginx"`, "spile up -- --cpu-budget 0.5"}},
		{"argument of up before --", []string{"up", "nginx", "--", "--deny", "exe=/x"}, nil, 2, []string{`"nginx"`}},
		{"up's data behind --", []string{"up", "--", "--data=/x"}, nil, 2, []string{"--data cannot stand behind --", "in front of --"}},
		{"up's target behind --", []string{"up", "--", "--deny", "exe=/x", "-target", "pid=1"}, nil, 2, []string{"--target cannot stand behind --", "--target to up itself"}},
		{"up's collector behind --", []string{"up", "--", "--collector", "h:1"}, nil, 2, []string{"--collector", "--agents-listen"}},
		{"certificate behind --", []string{"up", "--", "--cert", "x"}, nil, 2, []string{"--cert", "certificate"}},
		{"help behind --", []string{"up", "--", "-h"}, nil, 2, []string{"-h", "spile-agent --help"}},
		{"bad target in the environment", []string{"up"}, []string{"SPILE_TARGET=process=nginx"}, 2, []string{"process=nginx"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, _, errs := testWorld("", c.args...)
			w.Env = c.env
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			if code := run(ctx, w); code != c.code {
				t.Errorf("exit %d, want %d: %s", code, c.code, errs)
			}
			if n := strings.Count(errs.String(), "\n"); n != 1 || !strings.HasPrefix(errs.String(), "spile: ") {
				t.Errorf("want one line:\n%s", errs)
			}
			for _, s := range c.says {
				if !strings.Contains(errs.String(), s) {
					t.Errorf("it does not say %q: %s", s, errs)
				}
			}
		})
	}
}

// closed is an address at which nobody listens any more.
func closed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestUpNeedsRootAndAnAgent(t *testing.T) {
	w, _, errs := testWorld("", "up", "--data", t.TempDir())
	w.uid = 1000
	if code := run(context.Background(), w); code != 1 || !strings.Contains(errs.String(), "sudo") {
		t.Errorf("not root: %d %s", code, errs)
	}
	w, _, errs = testWorld("", "up", "--data", t.TempDir())
	w.uid, w.executable = 0, t.TempDir()+"/spile"
	if code := run(context.Background(), w); code != 1 || !strings.Contains(errs.String(), "--agent") {
		t.Errorf("no agent: %d %s", code, errs)
	}
}

// TestSettingsOverrideEachOther sets one name in three ways: flag, then variable, then file.
func TestSettingsOverrideEachOther(t *testing.T) {
	file := write(t, "c.yaml", "listen: 127.0.0.1:1\nagents_listen: 127.0.0.1:1\nhttp_listen: 127.0.0.1:1\nhttp_name: [a, b]\nsink:\n- kind: file\n  path: /x\n  format: ocsf\n- stdout\n")
	var cfg config
	cmd := collectorVerb(world{})
	f := cmd.Flags()
	if err := f.Parse([]string{"--config", file, "--listen", "127.0.0.1:3"}); err != nil {
		t.Fatal(err)
	}
	env := []string{"SPILE_LISTEN=127.0.0.1:2", "SPILE_AGENTS_LISTEN=127.0.0.1:2", "HOME=/root", "SPILE_COLLECTOR_PORT_7741_TCP_ADDR=10.0.0.1", "SPILE_TOKEN_FILE=/t",
		"SPILE_COLLECTOR=h:1", "SPILE_NODE=n", "SPILE_CA=c", "SPILE_CERT=c", "SPILE_KEY=k", "SPILE_TARGET=pid=1", "SPILE_RING_BYTES=1", "SPILE_SOCKET_HOOK=kprobe",
		"SPILE_SPOOL_BYTES=1", "SPILE_DATA=/here"}
	if err := settle(f, env); err != nil {
		t.Fatal(err)
	}
	get := func(name string) string { return f.Lookup(name).Value.String() }
	if get("listen") != "127.0.0.1:3" || get("agents-listen") != "127.0.0.1:2" || get("http-listen") != "127.0.0.1:1" {
		t.Errorf("listen %s, agents %s, http %s", get("listen"), get("agents-listen"), get("http-listen"))
	}
	if get("data") != "/here" {
		t.Errorf("the collector's data directory is %s", get("data"))
	}
	cfg.sinks, _ = f.GetStringArray("sink")
	cfg.httpNames, _ = f.GetStringArray("http-name")
	cfg.listen, cfg.agentsListen, cfg.httpListen, cfg.data, cfg.journalAge = get("listen"), get("agents-listen"), get("http-listen"), "/d", time.Hour
	s, err := cfg.check()
	if err != nil {
		t.Fatal(err)
	}
	if len(s.outlets) != 2 || s.outlets[0].Kind != "file" || s.outlets[0].Path != "/x" || s.outlets[0].Format != "ocsf" || s.outlets[1].Kind != "stdout" || len(cfg.httpNames) != 2 {
		t.Errorf("sinks %+v, names %v", s.outlets, cfg.httpNames)
	}
}

// brokenPipe is a terminal that was closed.
type brokenPipe struct{ bytes.Buffer }

func (*brokenPipe) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestAReaderThatLeavesIsNoError(t *testing.T) {
	w, _, errs := testWorld(`{"time":"2026-11-21T10:00:00Z","method":"GET","path":"/a","status_code":200}`+"\n", "replay", "-", "--calls", "-o", "json")
	w.Stdout = &brokenPipe{}
	if code := run(context.Background(), w); code != 0 || errs.String() != "" {
		t.Errorf("exit %d: %s", code, errs)
	}
}
