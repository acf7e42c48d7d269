package probe

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/target"
)

// breakpoints counts the sites of a library where the memory of a process differs from the file.
func breakpoints(t *testing.T, pid int, f target.File) (n int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	found := 0
	for lines := bufio.NewScanner(bytes.NewReader(maps)); lines.Scan(); {
		var from, to, offset uint64
		var perms string
		if !strings.HasSuffix(lines.Text(), f.Path) {
			continue
		}
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s %x", &from, &to, &perms, &offset); err != nil || perms[2] != 'x' {
			continue
		}
		for _, s := range f.Sites {
			var runs, lies [1]byte
			if _, err := mem.ReadAt(runs[:], int64(from+s.Offset-offset)); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Handle.ReadAt(lies[:], int64(s.Offset)); err != nil {
				t.Fatal(err)
			}
			found++
			if runs != lies {
				n++
			}
		}
	}
	if found != len(f.Sites) {
		t.Fatalf("process %d maps %d of %d sites", pid, found, len(f.Sites))
	}
	return n
}

func TestADeniedProcessHasNoBreakpoint(t *testing.T) {
	programs := newCounting(t, true)
	path, program := library(t, t.TempDir()), client(t)
	denied := filepath.Join(t.TempDir(), "denied")
	if err := os.WriteFile(denied, contents(t, program), 0o755); err != nil {
		t.Fatal(err)
	}
	f := described(t, path)
	r := registry(t, programs, DefaultTimes())
	spec, err := target.ParseSpec([]string{"netns=self"})
	if err != nil {
		t.Fatal(err)
	}
	selection, err := spec.Open("/proc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { selection.Close() })
	list, err := target.OpenDenylist([]string{"exe=*/denied"}, "/proc")
	if err != nil {
		t.Fatal(err)
	}
	w := target.NewWatcher(target.Config{
		Proc: "/proc", Selection: selection, Sink: r, Cache: target.NewCache(target.DefaultBudget()), Libraries: mappedLibraries(),
		Reconcile: 100 * time.Millisecond, Deny: list, Alone: r.Alone, BarredFor: 300 * time.Millisecond,
	})
	a, b := stay(t, exec.Command(program, path, "stay")), stay(t, exec.Command(program, path, "stay"))
	if err := w.Scan(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ran })
	eventually(t, "the library", func() bool { return attached(r) == 1 && one(t, r).Only == 0 })
	if n := breakpoints(t, a.Process.Pid, f); n != len(f.Sites) {
		t.Fatalf("%d breakpoints at %d sites: the test has lost its point", n, len(f.Sites))
	}

	d := stay(t, exec.Command(denied, path, "stay"))
	began := time.Now()
	eventually(t, "the breakpoints to go", func() bool { return breakpoints(t, d.Process.Pid, f) == 0 })
	took := time.Since(began)
	t.Logf("out of the denied process after %v", took)
	if took > time.Second {
		t.Errorf("it took %v", took)
	}
	eventually(t, "the others on their own", func() bool { return attached(r) == 2 })
	before := programs.hits(t, freed)
	for range 3 {
		a.call(t)
		b.call(t)
		d.call(t)
	}
	if n := programs.hits(t, freed) - before; n != 6 {
		t.Errorf("%d hits of 6 calls in two processes", n)
	}
	for _, s := range r.List() {
		if s.Only != uint32(a.Process.Pid) && s.Only != uint32(b.Process.Pid) {
			t.Errorf("%+v", s)
		}
	}
	if known, isIn, why := r.State(f.ID, uint32(d.Process.Pid)); !known || isIn || !strings.Contains(why, "on the denylist (--deny exe)") {
		t.Errorf("%v %v %q", known, isIn, why)
	}
	late := stay(t, exec.Command(program, path, "stay"))
	eventually(t, "one that comes later", func() bool { return attached(r) == 3 })
	if n := breakpoints(t, d.Process.Pid, f); n != 0 {
		t.Errorf("%d breakpoints in a denied process", n)
	}

	d.Process.Kill()
	d.Wait()
	eventually(t, "all at once again", func() bool { return len(r.List()) == 1 && one(t, r).Only == 0 && attached(r) == 1 })
	r.detaching.Wait()
	before = programs.hits(t, freed)
	if out, err := exec.Command(program, path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	late.call(t)
	if n := programs.hits(t, freed) - before; n != 2 {
		t.Errorf("%d hits of 2 calls", n)
	}
}
