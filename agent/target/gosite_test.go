package target

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// goSymbols are the functions that the table names.
func goSymbols(t *testing.T) []string {
	t.Helper()
	for _, lib := range Libraries() {
		if lib.Where == GoProgram {
			return lib.symbols()
		}
	}
	t.Fatal("the table has no entry for Go programs")
	return nil
}

// goModes are the ways to link a program that change where its tables are.
func goModes() map[string][]string {
	return map[string][]string{
		"static":       {"CGO_ENABLED=0"},
		"pie":          {"CGO_ENABLED=0", "-buildmode=pie"},
		"external":     {"CGO_ENABLED=1", "-ldflags=-linkmode=external"},
		"external pie": {"CGO_ENABLED=1", "-buildmode=pie", "-ldflags=-linkmode=external"},
		"stripped":     {"CGO_ENABLED=0", "-ldflags=-s -w"},
	}
}

// goSource is a program that uses crypto/tls and, where it may, C.
func goSource(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module talks\n\ngo 1.18\n",
		"main.go": `package main

import (
	"crypto/tls"
	"net"
)

func main() {
	c, err := tls.Dial("tcp", "127.0.0.1:1", nil)
	if err != nil {
		println(err.Error())
		return
	}
	for _, c := range []net.Conn{c, tls.Server(c, nil)} {
		c.Write(nil)
		c.Read(nil)
	}
}
`,
		"c.go": "package main\n\n// static int one(void) { return 1; }\nimport \"C\"\n\nvar one = C.one()\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// goBuild builds the source; flags with a capital letter are the environment.
func goBuild(t *testing.T, source string, flags ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "talks")
	cmd := exec.Command("go", "build", "-o", path)
	cmd.Dir, cmd.Env = source, append(os.Environ(), "GOFLAGS=-buildvcs=false")
	for _, flag := range flags {
		if strings.HasPrefix(flag, "-") {
			cmd.Args = append(cmd.Args, flag)
		} else {
			cmd.Env = append(cmd.Env, flag)
		}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %v: %v: %s", flags, err, out)
	}
	return path
}

// goTruth asks the toolchain's own disassembler, which takes functions from the symbol table. It wants the first
// instruction of the frame, and every return.
func goTruth(t *testing.T, path, symbol string) goSite {
	t.Helper()
	out, err := exec.Command("go", "tool", "objdump", "-s", "^"+regexp.QuoteMeta(symbol)+"$", path).Output()
	if err != nil {
		t.Fatalf("objdump %s: %v", path, err)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var want goSite
	// FILE:LINE 0xADDRESS CODE INSTRUCTION
	for _, m := range regexp.MustCompile(`(?m)^\s+\S+\s+0x([0-9a-f]+)\s+[0-9a-f]+\s+(.*?)\s*$`).FindAllStringSubmatch(string(out), -1) {
		address, err := strconv.ParseUint(m[1], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		offset := uint64(0)
		for _, p := range f.Progs {
			if p.Type == elf.PT_LOAD && address >= p.Vaddr && address < p.Vaddr+p.Filesz {
				offset = address - p.Vaddr + p.Off
			}
		}
		isFrame := strings.HasPrefix(m[2], "PUSHQ BP") || strings.HasPrefix(m[2], "SUBQ $") && strings.HasSuffix(m[2], ", SP") || m[2] == "ADDQ $-0x80, SP"
		if f.Machine == elf.EM_AARCH64 {
			isFrame = strings.HasPrefix(m[2], "MOVD.W R30") || strings.HasPrefix(m[2], "SUB $") && strings.HasSuffix(m[2], "RSP, R20")
		}
		if isFrame && want.enter == 0 {
			want.enter = offset
		}
		if strings.HasPrefix(m[2], "RET") {
			want.returns = append(want.returns, offset)
		}
	}
	if want.enter == 0 || len(want.returns) == 0 {
		t.Fatalf("%s: objdump shows no %s:\n%s", path, symbol, out)
	}
	return want
}

func goSitesOf(t *testing.T, image []byte) map[string]goSite {
	t.Helper()
	im, err := openImage(newBounded(bytes.NewReader(image), slow()))
	if err != nil {
		t.Fatal(err)
	}
	sites, problems, err := im.goSites(goSymbols(t))
	if err != nil || len(problems) > 0 {
		t.Fatalf("%v, %v", problems, err)
	}
	return sites
}

func sameSites(t *testing.T, got, want map[string]goSite) {
	t.Helper()
	for name, w := range want {
		if g := got[name]; g.enter != w.enter || !slices.Equal(g.returns, w.returns) {
			t.Errorf("%s: %#x, returns %#x, want %#x, %#x", name, g.enter, g.returns, w.enter, w.returns)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d sites, want %d", len(got), len(want))
	}
}

// checkGo proves every link mode of one toolchain.
func checkGo(t *testing.T, source string, environment ...string) {
	static := map[string]goSite{}
	for _, mode := range []string{"static", "pie", "external", "external pie", "stripped"} {
		t.Run(mode, func(t *testing.T) {
			path := goBuild(t, source, append(slices.Clone(environment), goModes()[mode]...)...)
			image, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			want := static // a stripped program has the code of the one that is not
			if mode != "stripped" {
				want = map[string]goSite{}
				for _, symbol := range goSymbols(t) {
					want[symbol] = goTruth(t, path, symbol)
				}
			}
			if mode == "static" {
				static = want
			}
			sameSites(t, goSitesOf(t, image), want)
			// Without sections, as sstrip leaves it.
			clear(image[40:48])
			clear(image[58:64])
			sameSites(t, goSitesOf(t, image), want)
		})
	}
}

func TestGoSites(t *testing.T) { checkGo(t, goSource(t)) }

// checkBuilt proves one build against the toolchain's disassembler.
func checkBuilt(t *testing.T, source string, flags ...string) {
	t.Helper()
	path := goBuild(t, source, flags...)
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]goSite{}
	for _, symbol := range goSymbols(t) {
		want[symbol] = goTruth(t, path, symbol)
	}
	sameSites(t, goSitesOf(t, image), want)
}

// TestGoMatrix proves the toolchains that made the programs people run: the last one whose frames are no push, the oldest
// and the newest that we promise, and between them the last one whose line table says where code begins.
func TestGoMatrix(t *testing.T) {
	if os.Getenv("TEST_SPILE_MATRIX") == "" {
		t.Skip("it needs five toolchains; make matrix runs it")
	}
	source := goSource(t)
	for _, version := range []string{"go1.20.14", "go1.21.13", "go1.23.12", "go1.25.5", runtime.Version()} {
		t.Run(version, func(t *testing.T) {
			toolchain := "GOTOOLCHAIN=" + version // deploy/packages.sh fetches them; here is no network
			if version == runtime.Version() {
				toolchain = "GOTOOLCHAIN=local"
			}
			f := open(t, goBuild(t, source, toolchain, "CGO_ENABLED=0"))
			im, err := openImage(newBounded(f, slow()))
			if err != nil {
				t.Fatal(err)
			}
			at, ok, err := im.buildInfo()
			if got := im.goVersion(at); err != nil || !ok || got != version {
				t.Errorf("built by %q (%v, %v)", got, ok, err)
			}
			checkGo(t, source, toolchain)
			if version != "go1.21.13" && version != runtime.Version() {
				return
			}
			other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
			checkBuilt(t, source, toolchain, "CGO_ENABLED=0", "GOARCH="+other)
			checkBuilt(t, source, toolchain, "CGO_ENABLED=0", "GOARCH="+other, "-buildmode=pie")
			checkBuilt(t, source, toolchain, "CGO_ENABLED=0", "-gcflags=all=-N -l")
			checkBuilt(t, source, toolchain, "CGO_ENABLED=1", "-race")
		})
	}
}
