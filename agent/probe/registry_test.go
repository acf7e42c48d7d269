package probe

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
)

const freed = "ssl_free_enter"

func registry(t testing.TB, p Programs, times Times) *Registry {
	t.Helper()
	times.Check, times.Canary = 10*time.Millisecond, 0
	r := registryOf(t, Config{Programs: p, Times: times})
	closeAtEnd(t, r)
	return r
}

// registryOf makes a Registry that the test closes.
func registryOf(t testing.TB, c Config) *Registry {
	t.Helper()
	if c.Times.Check == 0 {
		c.Times.Check = 10 * time.Millisecond
	}
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func closeAtEnd(t testing.TB, r *Registry) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// at sets the registry's clock.
func at(r *Registry, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = func() time.Time { return now }
}

func one(t testing.TB, r *Registry) State {
	t.Helper()
	list := r.List()
	if len(list) != 1 {
		t.Fatalf("%d files: %+v", len(list), list)
	}
	return list[0]
}

func TestEachCallFiresOnce(t *testing.T) {
	for _, multi := range []bool{true, false} {
		t.Run(fmt.Sprintf("multi=%v", multi), func(t *testing.T) {
			programs := newCounting(t, multi)
			path := library(t, t.TempDir())
			a, b := newCaller(t, path), newCaller(t, path)
			r := registry(t, programs, DefaultTimes())
			a.call(t, 10)
			r.Use(a.process(), described(t, path))
			r.Use(b.process(), described(t, path))
			if s := one(t, r); s.Phase != Attached || s.Processes != 2 || s.Path != path || s.BuildID == "" || len(s.Sites) != len(described(t, path).Sites) {
				t.Fatalf("%+v", s)
			}
			a.call(t, 100)
			b.call(t, 20)
			// One that started later and was never announced.
			newCaller(t, path).call(t, 3)
			if n := programs.hits(t, freed); n != 123 {
				t.Errorf("%d hits of 123 calls", n)
			}
		})
	}
}

func TestProbesSurviveTheGarbageCollector(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c := newCaller(t, path)
	r := registry(t, programs, DefaultTimes())
	r.Use(c.process(), described(t, path))
	for range 5 {
		runtime.GC()
		time.Sleep(5 * time.Millisecond) // finalizers run on their own
	}
	c.call(t, 10)
	if n := programs.hits(t, freed); n != 10 {
		t.Errorf("%d hits of 10 calls", n)
	}
	runtime.KeepAlive(r)
}

func TestSameInodeOnTwoFileSystemsIsTwo(t *testing.T) {
	programs := newCounting(t, true)
	r := registry(t, programs, DefaultTimes())
	var inodes []uint64
	for i := range 2 {
		dir := t.TempDir()
		if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		path := library(t, dir)
		f := described(t, path)
		inodes = append(inodes, f.ID.Ino)
		c := newCaller(t, path)
		r.Use(c.process(), f)
		c.call(t, 7)
		if n := programs.hits(t, freed); n != uint64(7*(i+1)) {
			t.Errorf("file %d: %d hits of %d calls", i, n, 7*(i+1))
		}
	}
	if len(r.List()) != 2 || inodes[0] != inodes[1] {
		t.Errorf("%d files, inodes %v; want two with one number", len(r.List()), inodes)
	}
}

func TestOneImageInTwoContainersIsOne(t *testing.T) {
	programs := newCounting(t, true)
	base := t.TempDir()
	if err := unix.Mount("none", base, "tmpfs", 0, ""); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { unix.Unmount(base, unix.MNT_DETACH) })
	library(t, filepath.Join(base, "image"))
	r := registry(t, programs, DefaultTimes())
	for i := range 2 {
		dir := filepath.Join(base, fmt.Sprint(i))
		for _, sub := range []string{"upper", "work", "root"} {
			os.MkdirAll(filepath.Join(dir, sub), 0o755)
		}
		root := filepath.Join(dir, "root")
		if err := unix.Mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%s/image,upperdir=%s/upper,workdir=%s/work", base, dir, dir)); err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
		path := filepath.Join(root, "libssl.so.3")
		c := newCaller(t, path)
		r.Use(c.process(), described(t, path))
		c.call(t, 7)
		if n := programs.hits(t, freed); n != uint64(7*(i+1)) {
			t.Errorf("container %d: %d hits of %d calls", i, n, 7*(i+1))
		}
	}
	if s := one(t, r); s.Processes != 2 {
		t.Errorf("%+v", s)
	}
}

func TestReplacedLibraryIsANewFile(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	before := newCaller(t, path)
	r := registry(t, programs, DefaultTimes())
	r.Use(before.process(), described(t, path))
	if err := os.Rename(library(t, t.TempDir()+"/new"), path); err != nil {
		t.Skip(err) // another file system
	}
	after := newCaller(t, path)
	after.call(t, 5)
	if n := programs.hits(t, freed); n != 0 {
		t.Fatalf("%d hits in a file that nobody announced", n)
	}
	r.Use(after.process(), described(t, path))
	before.call(t, 1)
	after.call(t, 1)
	if n := programs.hits(t, freed); n != 2 || len(r.List()) != 2 {
		t.Errorf("%d hits of 2 calls, %d files", n, len(r.List()))
	}
}

func TestOverwrittenInPlaceIsLetGoAtOnce(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	r := registry(t, programs, DefaultTimes())
	f := described(t, path)
	r.Use(target.Process{PID: 1}, f)
	f.ID.BuildID = "another"
	r.Use(target.Process{PID: 2}, f)
	if s := one(t, r); s.BuildID != "another" || s.Phase != Attached {
		t.Errorf("%+v", s)
	}
	newCaller(t, path).call(t, 4)
	eventually(t, "the old probes to go", func() bool { return len(r.slotsOut) == 0 })
	if n := programs.hits(t, freed); n < 4 || n > 8 {
		t.Errorf("%d hits", n)
	}
	before := programs.hits(t, freed)
	newCaller(t, path).call(t, 4)
	if n := programs.hits(t, freed) - before; n != 4 {
		t.Errorf("%d hits of 4 calls: both builds are attached", n)
	}
}

func TestDrainingAndBack(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c := newCaller(t, path)
	times := quick()
	times.Grace = time.Hour
	r := registry(t, programs, times)
	f := described(t, path)
	r.Use(c.process(), f)
	r.Drop(target.Process{PID: 99}, f.ID) // a stranger
	if s := one(t, r); s.Phase != Attached {
		t.Fatalf("%+v", s)
	}
	r.Drop(c.process(), f.ID)
	if s := one(t, r); s.Phase != Draining || s.Processes != 0 {
		t.Fatalf("%+v", s)
	}
	c.call(t, 1)
	fds := descriptors(t)
	r.Use(c.process(), described(t, path))
	if s := one(t, r); s.Phase != Attached || s.Processes != 1 {
		t.Fatalf("%+v", s)
	}
	c.call(t, 1)
	if n := programs.hits(t, freed); n != 2 {
		t.Errorf("%d hits of 2 calls", n)
	}
	if now := descriptors(t); now > fds+1 {
		t.Errorf("%d descriptors, then %d: it was attached again", fds, now)
	}
	at(r, time.Now().Add(2*time.Hour))
	r.Drop(c.process(), f.ID)
	at(r, time.Now().Add(4*time.Hour))
	eventually(t, "detaching", func() bool { return len(r.List()) == 0 })
	r.detaching.Wait()
	c.call(t, 5)
	if n := programs.hits(t, freed); n != 2 {
		t.Errorf("%d hits: still attached", n)
	}
}

func TestTwoHundredCyclesLeaveNothing(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c := newCaller(t, path)
	r := registry(t, programs, quick())
	f := described(t, path)
	before := 0
	for i := range 200 {
		r.Use(c.process(), f)
		if s := one(t, r); s.Phase != Attached {
			t.Fatalf("cycle %d: %+v", i, s)
		}
		r.Drop(c.process(), f.ID)
		eventually(t, "detaching", func() bool { return len(r.List()) == 0 })
		if i == 0 {
			r.detaching.Wait()
			before = descriptors(t)
		}
	}
	r.detaching.Wait()
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors after one cycle, %d after 200", before, after)
	}
	c.call(t, 3)
	if n := programs.hits(t, freed); n != 0 {
		t.Errorf("%d hits after everything was detached", n)
	}
}

func TestTargetKilled(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	victim, other := newCaller(t, path), newCaller(t, path)
	r := registry(t, programs, DefaultTimes())
	r.Use(victim.process(), described(t, path))
	r.Use(other.process(), described(t, path))
	fmt.Fprintln(victim.in, "SSL_free", 100_000_000)
	eventually(t, "the victim to be busy", func() bool { return programs.hits(t, freed) > 100 })
	victim.Process.Kill()
	victim.Wait()
	r.Drop(victim.process(), one(t, r).ID)
	before := programs.hits(t, freed)
	other.call(t, 50)
	if n := programs.hits(t, freed) - before; n != 50 {
		t.Errorf("%d hits of 50 calls by the survivor", n)
	}
	if s := one(t, r); s.Processes != 1 || s.Phase != Attached {
		t.Errorf("%+v", s)
	}
}

func TestManyAtOnceAttachOnce(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	r := registry(t, programs, DefaultTimes())
	files := make([]target.File, 32)
	for i := range files {
		files[i] = described(t, path)
	}
	var all sync.WaitGroup
	for i, f := range files {
		all.Add(1)
		go func() {
			defer all.Done()
			r.Use(target.Process{PID: uint32(i + 1)}, f)
			r.List()
			if i%2 == 0 {
				r.Drop(target.Process{PID: uint32(i + 1)}, f.ID)
			}
		}()
	}
	all.Wait()
	if s := one(t, r); s.Processes != 16 || s.Phase != Attached {
		t.Errorf("%+v", s)
	}
	newCaller(t, path).call(t, 9)
	if n := programs.hits(t, freed); n != 9 {
		t.Errorf("%d hits of 9 calls", n)
	}
}
