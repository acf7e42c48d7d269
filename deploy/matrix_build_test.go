package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// peer is a program of testdata/matrix: a server or client of a runtime's own TLS, in any number of connections.
type peer struct {
	participant
	// argv is the command, but for the address and what comes after it.
	argv func(t testing.TB, verb, mode string) []string
}

// peers lists the runtimes: Python with blocking sockets and with asyncio, Node, and Go by toolchain and link mode.
func peers(t testing.TB) []peer {
	t.Helper()
	list := []peer{pythonPeer(t, "threads"), pythonPeer(t, "asyncio"), nodePeer()}
	for _, b := range goBuilds() {
		list = append(list, b.peer())
	}
	return list
}

func pythonPeer(t testing.TB, mode string) peer {
	t.Helper()
	p := peer{participant: participant{name: "python-" + mode, modes: []string{"h1"}}}
	exe, err := exec.Command("python3", "-c", "import os, sys; print(os.path.realpath(sys.executable))").Output()
	if err != nil {
		p.lacks = "python3 is not installed"
		return p
	}
	python := strings.TrimSpace(string(exe))
	p.process = filepath.Base(python)
	p.argv = func(_ testing.TB, verb, _ string) []string {
		return []string{python, "testdata/matrix/peer.py", verb, mode}
	}
	return p
}

// npmNode is where deploy/packages.sh puts a Node when the machine has none of 20 or newer.
const npmNode = "../bin/matrix/node_modules/node/bin/node"

func nodePeer() peer {
	p := peer{participant: participant{name: "node", process: "node", modes: []string{"h1", "h2"}, lacks: "no Node of 20 or newer: `make matrix` brings one"}}
	for _, node := range []string{"node", npmNode} {
		out, err := exec.Command(node, "-p", "parseInt(process.versions.node) >= 20").Output()
		if err != nil || strings.TrimSpace(string(out)) != "true" {
			continue
		}
		p.lacks = ""
		p.argv = func(_ testing.TB, verb, mode string) []string {
			return []string{node, "testdata/matrix/peer.js", verb, mode}
		}
		break
	}
	return p
}

// goBuild is a toolchain and a link mode. Toolchains other than the one at hand come by GOTOOLCHAIN.
type goBuild struct {
	toolchain, link string
	env, flags      []string
}

// linkModes are the four ways in which a Go program places crypto/tls: absolute or position-independent, linked by Go or
// by the system's linker (with cgo), with and without symbols.
var linkModes = []goBuild{
	{link: "static", env: []string{"CGO_ENABLED=0"}},
	{link: "stripped", env: []string{"CGO_ENABLED=0"}, flags: []string{"-ldflags=-s -w"}},
	{link: "pie", env: []string{"CGO_ENABLED=0"}, flags: []string{"-buildmode=pie"}},
	{link: "external", env: []string{"CGO_ENABLED=1"}, flags: []string{"-ldflags=-linkmode=external"}},
}

// goToolchains are the oldest and newest that Spile supports and one between; deploy/packages.sh downloads them.
var goToolchains = []string{"go1.21.13", "go1.23.12", "go1.26.0"}

func goBuilds() (all []goBuild) {
	atHand := runtime.Version()
	if !wholeMatrix() {
		for _, b := range linkModes[:2] {
			b.toolchain = atHand
			all = append(all, b)
		}
		return all
	}
	for _, toolchain := range goToolchains {
		if strings.HasPrefix(atHand, toolchain[:len("go1.26")]) {
			toolchain = atHand
		}
		for _, b := range linkModes {
			b.toolchain = toolchain
			all = append(all, b)
		}
	}
	return all
}

func (b goBuild) peer() peer {
	name := b.toolchain + "-" + b.link
	return peer{participant{name: name, process: name, modes: []string{"h1", "h2"}, build: true}, func(t testing.TB, verb, mode string) []string {
		return []string{b.program(t, name), verb, mode}
	}}
}

// program builds the peer, once per checkout and change of its source.
func (b goBuild) program(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../bin/matrix", name))
	must(t, err)
	cmd := exec.Command("go", slices.Concat([]string{"build", "-trimpath", "-o", path}, b.flags, []string{"."})...)
	cmd.Dir = "testdata/matrix/peer"
	cmd.Env = slices.Concat(os.Environ(), []string{"GOTOOLCHAIN=" + b.toolchain, "GOFLAGS=-buildvcs=false"}, b.env)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v (`make matrix` downloads toolchains)\n%s", name, err, out)
	}
	return path
}
