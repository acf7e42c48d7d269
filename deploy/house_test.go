package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/spile/spile"

// mayImport is the law: a room, and what it may import besides the standard library.
// A name without a dot in its first element is a room of this module; "x/..." covers what is below x.
// Only the two mains (agent, collector) see all of their own rooms.
var mayImport = map[string][]string{
	"bpf":                   {"github.com/cilium/ebpf/...", "golang.org/x/sys/unix"},
	"agent":                 {"agent/...", "bpf", "proto/...", "golang.org/x/sys/unix", "go.yaml.in/yaml/v3", "google.golang.org/protobuf/..."},
	"agent/chunk":           {},
	"agent/doctor":          {"agent/target", "bpf", "github.com/cilium/ebpf/...", "golang.org/x/sys/unix"},
	"agent/guard":           {},
	"agent/gate":            {"github.com/cilium/ebpf/...", "golang.org/x/sys/unix"},
	"agent/source":          {"bpf", "agent/chunk", "golang.org/x/sys/unix"},
	"agent/target":          {"bpf", "golang.org/x/arch/x86/x86asm", "golang.org/x/sys/unix"},
	"agent/probe":           {"bpf", "agent/target", "github.com/cilium/ebpf/...", "golang.org/x/sys/unix"},
	"agent/parse":           {},
	"agent/parse/http1":     {"agent/parse"},
	"agent/parse/http2":     {"agent/parse", "golang.org/x/net/http2/hpack"},
	"agent/parse/parsetest": {"agent/parse"},
	"agent/flow":            {"agent/chunk", "agent/parse", "agent/parse/http1", "agent/parse/http2"},
	"agent/call":            {"agent/parse", "proto/...", "google.golang.org/protobuf/...", "github.com/klauspost/compress/..."},
	"agent/mask":            {"agent/chunk", "agent/call", "proto/segment", "golang.org/x/net/http2/hpack"},
	"agent/coverage":        {"proto/spile/v1"},
	"agent/origin":          {"agent/chunk", "proto/spile/v1"},
	"agent/govern":          {},
	"agent/join":            {"proto/spile/v1", "google.golang.org/protobuf/..."},
	"agent/ship":            {"proto/...", "google.golang.org/grpc/...", "google.golang.org/protobuf/..."},
	"collector":             {"collector/...", "proto/...", "google.golang.org/grpc/...", "google.golang.org/protobuf/...", "github.com/spf13/cobra", "github.com/spf13/pflag", "go.yaml.in/yaml/v3", "github.com/prometheus/client_golang/...", "github.com/prometheus/client_model/...", "golang.org/x/sys/unix"},
	"collector/intake":      {"proto/...", "google.golang.org/grpc/...", "google.golang.org/protobuf/..."},
	"collector/identity":    {},
	"collector/journal":     {"github.com/nats-io/nats-server/v2/...", "github.com/nats-io/nats.go/...", "golang.org/x/sys/unix"},
	"collector/route":       {"proto/segment"},
	"collector/inventory":   {"proto/spile/v1", "google.golang.org/protobuf/..."},
	"collector/owner":       {"collector/journal", "collector/inventory", "proto/spile/v1", "google.golang.org/protobuf/..."},
	"collector/detect":      {"proto/...", "cel.dev/cel-go/...", "go.yaml.in/yaml/v3", "google.golang.org/protobuf/...", "google.golang.org/genproto/..."},
	"collector/siem":        {"proto/...", "google.golang.org/protobuf/..."},
	"collector/replay":      {"proto/...", "google.golang.org/protobuf/..."},
	"collector/query":       {"proto/...", "google.golang.org/grpc/...", "google.golang.org/protobuf/..."},
	"collector/cli":         {"proto/...", "google.golang.org/grpc/...", "google.golang.org/protobuf/...", "github.com/spf13/cobra", "github.com/spf13/pflag"},
	"proto/spile/v1":        {"google.golang.org/grpc/...", "google.golang.org/protobuf/..."},
	"proto/segment":         {},
	"proto/columns":         {"proto/spile/v1", "google.golang.org/protobuf/...", "github.com/klauspost/compress/..."},
	"proto/line":            {"proto/spile/v1", "google.golang.org/protobuf/..."},
	"deploy":                {},
	"deploy/gotest":         {},
	"bpf/vmtest":            {},
}

// pure rooms do no I/O, read no clock, log nothing and start no goroutine, nor does any room below them.
var pure = []string{"agent/chunk", "agent/parse", "agent/flow", "agent/call", "agent/join", "agent/coverage", "agent/guard", "agent/govern", "agent/mask",
	"collector/route", "collector/spec", "collector/detect", "proto"}

// impure is what a pure room must not import. net/netip and io are fine.
var impure = []string{"os", "os/exec", "os/signal", "net", "net/http", "log", "log/slog", "syscall", "io/ioutil", "path/filepath", "golang.org/x/sys/unix"}

// impureCalls are the functions of package time that read the clock or wait.
var impureCalls = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

const maxLines = 400

// room is one Go package of the module, tests apart.
type room struct {
	ImportPath   string
	Dir          string
	Name         string
	Imports      []string
	GoFiles      []string
	IgnoredFiles []string `json:"IgnoredGoFiles"`
	TestGoFiles  []string
}

func rooms(t *testing.T) map[string]room {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,Imports,GoFiles,IgnoredGoFiles,TestGoFiles", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string]room{}
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var r room
		if err := dec.Decode(&r); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(strings.TrimPrefix(r.ImportPath, module), "/")] = r
	}
}

func matches(pattern, name string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == base || strings.HasPrefix(name, base+"/")
	}
	return pattern == name
}

func isStd(name string) bool { return !strings.Contains(strings.Split(name, "/")[0], ".") }

func TestHouseImportsFollowTheTable(t *testing.T) {
	for name, r := range rooms(t) {
		allowed, ok := mayImport[name]
		if !ok {
			t.Errorf("%s: a room without a row in the table", name)
			continue
		}
		for _, imp := range r.Imports {
			short := strings.TrimPrefix(imp, module+"/")
			if short == imp && isStd(imp) {
				continue
			}
			if !slices.ContainsFunc(allowed, func(p string) bool { return matches(p, short) }) {
				t.Errorf("%s imports %s, which its row does not allow", name, short)
			}
		}
	}
}

func TestHouseAgentAndCollectorMeetOnlyInProto(t *testing.T) {
	all := rooms(t)
	for name := range all {
		for _, dep := range closure(all, name) {
			if matches("agent/...", name) && matches("collector/...", dep) || matches("collector/...", name) && (matches("agent/...", dep) || matches("bpf/...", dep)) {
				t.Errorf("%s reaches %s", name, dep)
			}
		}
	}
}

// closure lists the rooms of this module that name imports, directly or not.
func closure(all map[string]room, name string) []string {
	seen := map[string]bool{}
	var walk func(string)
	walk = func(n string) {
		for _, imp := range all[n].Imports {
			short, ours := strings.CutPrefix(imp, module+"/")
			if ours && !seen[short] {
				seen[short] = true
				walk(short)
			}
		}
	}
	walk(name)
	return slices.Sorted(maps.Keys(seen))
}

func isPure(name string) bool {
	return slices.ContainsFunc(pure, func(p string) bool { return matches(p+"/...", name) }) &&
		name != "proto/spile/v1" && name != "agent/parse/parsetest"
}

func TestHousePureRoomsArePure(t *testing.T) {
	all := rooms(t)
	for name := range all {
		if !isPure(name) {
			continue
		}
		for _, dep := range append(closure(all, name), name) {
			if dep == "proto/spile/v1" {
				continue // generated; its gRPC half is not called by a pure room
			}
			checkPure(t, name, all[dep])
		}
	}
}

func checkPure(t *testing.T, name string, r room) {
	for _, imp := range r.Imports {
		if slices.Contains(impure, imp) {
			t.Errorf("%s is pure but %s imports %s", name, r.ImportPath, imp)
		}
	}
	for _, f := range r.GoFiles {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(r.Dir, f), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s is pure but %s/%s starts a goroutine", name, r.ImportPath, f)
			case *ast.SelectorExpr:
				if id, ok := n.X.(*ast.Ident); ok && id.Name == "time" && slices.Contains(impureCalls, n.Sel.Name) {
					t.Errorf("%s is pure but %s/%s calls time.%s", name, r.ImportPath, f, n.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestHouseEveryPackageHasOneDocThatTeaches(t *testing.T) {
	for name, r := range rooms(t) {
		var docs []string
		for _, f := range append(slices.Clone(r.GoFiles), r.IgnoredFiles...) {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(r.Dir, f), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err == nil && file.Name.Name == r.Name && file.Doc != nil && strings.HasPrefix(strings.TrimSpace(file.Doc.Text()), docStart(r)) {
				docs = append(docs, f)
			}
		}
		if len(r.GoFiles) > 0 && len(docs) != 1 {
			t.Errorf("%s: %d package docs %v, want one that begins with %q", name, len(docs), docs, docStart(r))
		}
	}
}

func docStart(r room) string {
	if r.Name == "main" {
		return "Command "
	}
	return "Package " + r.Name
}

func TestHouseNoInitAndNoMutableGlobals(t *testing.T) {
	for name, r := range rooms(t) {
		for _, f := range r.GoFiles {
			if generated(f) {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(r.Dir, f), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			globals := map[string]bool{}
			for _, d := range file.Decls {
				switch d := d.(type) {
				case *ast.FuncDecl:
					if d.Recv == nil && d.Name.Name == "init" {
						t.Errorf("%s/%s has an init()", name, f)
					}
				case *ast.GenDecl:
					for _, s := range d.Specs {
						if v, ok := s.(*ast.ValueSpec); ok && d.Tok == token.VAR {
							for _, id := range v.Names {
								globals[id.Name] = id.Name != "_"
							}
						}
					}
				}
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if a, ok := n.(*ast.AssignStmt); ok && a.Tok == token.ASSIGN {
					for _, lhs := range a.Lhs {
						if id, ok := lhs.(*ast.Ident); ok && globals[id.Name] && !shadowed(file, id) {
							t.Errorf("%s/%s assigns the package variable %s", name, f, id.Name)
						}
					}
				}
				return true
			})
		}
	}
}

// shadowed reports whether a local of the same name is declared somewhere in the file: then the assignment is taken as the local's.
func shadowed(file *ast.File, id *ast.Ident) bool {
	found := false
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				for _, lhs := range n.Lhs {
					if l, ok := lhs.(*ast.Ident); ok && l.Name == id.Name {
						found = true
					}
				}
			}
		case *ast.Field:
			for _, l := range n.Names {
				found = found || l.Name == id.Name
			}
		}
		return !found
	})
	return found
}

func generated(name string) bool {
	return strings.HasSuffix(name, ".pb.go") || strings.HasSuffix(name, "_bpfel.go")
}

func TestHouseFilesStayShort(t *testing.T) {
	walk(t, func(p string, data []byte) {
		switch path.Ext(p) {
		case ".go", ".c", ".h", ".sh":
			if n := bytes.Count(data, []byte("\n")); n > maxLines && !generated(p) {
				t.Errorf("%s has %d lines, more than %d: which idea in it wants a file of its own?", p, n, maxLines)
			}
		}
	})
}

func TestHouseTopLevelHoldsOnlyTheHouse(t *testing.T) {
	want := []string{"bpf", "agent", "collector", "proto", "deploy", "go.mod", "go.sum", "Makefile", "README.md", "LICENSE", "bin"}
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(want, e.Name()) {
			t.Errorf("%s does not belong at the top level", e.Name())
		}
	}
}

func TestHouseNoRoomIsADrawer(t *testing.T) {
	for name := range rooms(t) {
		for _, part := range strings.Split(name, "/") {
			if slices.Contains([]string{"util", "utils", "common", "internal", "pkg", "helper", "helpers", "base", "manager", "types", "models", "docs"}, part) {
				t.Errorf("%s: %q names no thing", name, part)
			}
		}
	}
}

// TestHouseBPFReadsUserMemoryOnlyAsUserMemory keeps bare bpf_probe_read (which follows any pointer) and every write to user memory out.
func TestHouseBPFReadsUserMemoryOnlyAsUserMemory(t *testing.T) {
	for _, bad := range []string{"bpf_probe_read(", "bpf_probe_read_str(", "bpf_probe_write_user", "bpf_override_return", "bpf_send_signal"} {
		walk(t, func(p string, data []byte) {
			if (path.Ext(p) == ".c" || path.Ext(p) == ".h") && bytes.Contains(data, []byte(bad)) {
				t.Errorf("%s uses %s", p, bad)
			}
		})
	}
}

// walk visits every tracked-looking file of the house.
func walk(t *testing.T, visit func(path string, data []byte)) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(".."), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != "." && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".ci" || p == "bin" || d.Name() == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(filepath.Join("..", p))
		if err != nil {
			return fmt.Errorf("read %s: %w", p, err)
		}
		visit(p, data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
