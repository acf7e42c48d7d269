package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestLogLinesAreWholeCleanAndBounded(t *testing.T) {
	var out bytes.Buffer
	l := &lineWriter{out: &out, prefix: "agent: "}
	for _, piece := range []string{"one\ntw", "o\r\n\n", "esc\x1b[2J\n", strings.Repeat("x", 3*maxLogLine), "tail\nlast"} {
		if n, err := l.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatalf("write: %d %v", n, err)
		}
	}
	if last := l.flush(); last != "last" {
		t.Errorf("the last line is %q", last)
	}
	got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	want := []string{"agent: one", "agent: two", "agent: esc\ufffd[2J", "agent: " + strings.Repeat("x", maxLogLine), "agent: last"}
	if !slices.Equal(got, want) {
		t.Errorf("got %.200q", got)
	}
}

// TestTheAgentGetsNoneOfOurSettings: SPILE_DATA of `up` is not the agent's, SPILE_RING_BYTES is nobody else's.
func TestTheAgentGetsNoneOfOurSettings(t *testing.T) {
	env := agentCall{node: "n1"}.env([]string{"PATH=/bin", "SPILE_DATA=/d", "SPILE_TARGET=pid=1", "SPILE_RING_BYTES=1", "SPILE_SOCKET_HOOK=kprobe", "SPILE_SPOOL_BYTES=2", "HOME=/"}, "/d/agent")
	want := []string{"PATH=/bin", "SPILE_RING_BYTES=1", "SPILE_SOCKET_HOOK=kprobe", "SPILE_SPOOL_BYTES=2", "HOME=/", "SPILE_NODE=n1", "SPILE_CA=/d/agent/ca.crt", "SPILE_CERT=/d/agent/agent.crt", "SPILE_KEY=/d/agent/agent.key"}
	if !slices.Equal(env, want) {
		t.Errorf("got %q", env)
	}
	for in, want := range map[string]string{"127.0.0.1:7741": "127.0.0.1:7741", "0.0.0.0:7741": "127.0.0.1:7741", "[::]:7741": "127.0.0.1:7741", "10.0.0.5:7741": "10.0.0.5:7741"} {
		if got := (agentCall{}).args(in, "/d")[1]; got != want {
			t.Errorf("agents on %s: the child gets %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{"web-1.example": "web-1.example", "höst name": "h-st-name", "": "localhost", "..": "localhost", strings.Repeat("a", 300): strings.Repeat("a", 128)} {
		if got := nodeName(in); got != want {
			t.Errorf("node name of %q: %q, want %q", in, got, want)
		}
	}
}

func TestTargets(t *testing.T) {
	for _, good := range []string{"netns=self", "!netns=/run/netns/a", "cgroup=/sys/fs/cgroup/x", "exe=/usr/sbin/*", "pid=1", "!port=22", "port=65535"} {
		if err := checkTarget(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "!", "process=nginx", "pid=", "pid=x", "pid=0", "pid=-1", "port=65536", "exe=", "netns", "!!pid=1"} {
		if checkTarget(bad) == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
