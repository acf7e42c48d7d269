package probe

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/spile/spile/agent/target"
)

// TestFiveHundredFilesAreLetGoInTime is the end of an agent on a host with many images.
func TestFiveHundredFilesAreLetGoInTime(t *testing.T) {
	const files, limit = 500, 5 * time.Second
	programs := newCounting(t, true)
	dir := t.TempDir()
	text := contents(t, library(t, dir))
	c := newCaller(t, filepath.Join(dir, "libssl.so.3")) // of one of them, so that something is mapped
	times := DefaultTimes()
	times.Canary = 0
	r := registryOf(t, Config{Programs: programs, Counters: &kernel{}, Times: times})
	for i := range files {
		path := filepath.Join(dir, "libssl.so.3")
		if i > 0 {
			path = filepath.Join(dir, strconv.Itoa(i), "libssl.so.3")
			if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, text, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		f := described(t, path)
		if !r.Use(target.Process{PID: 1}, f) {
			t.Fatalf("file %d: %+v", i, r.List())
		}
		f.Handle.Close()
	}
	links := 0
	for _, e := range r.files {
		for _, p := range e.at.parts {
			links += len(p.links)
		}
	}
	c.call(t, 3)
	if n := programs.hits(t, freed); n != 3 {
		t.Errorf("%d hits of 3 calls", n)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	t.Logf("%d links in %d files let go after %v", links, files, took)
	if took > limit {
		t.Errorf("it took more than %v", limit)
	}
	c.call(t, 1)
	if n := programs.hits(t, freed); n != 3 {
		t.Errorf("%d hits: something is left", n)
	}
}

// TestTheEndHasRoomOfItsOwn is an agent that ends while all the room for links that are being closed is taken.
func TestTheEndHasRoomOfItsOwn(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c := newCaller(t, path)
	r := registry(t, programs, quick())
	f := described(t, path)
	if !r.Use(c.process(), f) {
		t.Fatalf("%+v", r.List())
	}
	for range cap(r.slotsOut) {
		r.slotsOut <- struct{}{}
	}
	r.Drop(c.process(), f.ID)
	eventually(t, "the file is let go of", func() bool { return len(r.List()) == 0 })
	if linksOn(t, path) == 0 {
		t.Fatal("its probes are out: they found room")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		t.Error(err)
	}
	if n := linksOn(t, path); n != 0 {
		t.Errorf("%d links are left", n)
	}
	c.call(t, 1)
	if n := programs.hits(t, freed); n != 0 {
		t.Errorf("%d hits: something is left", n)
	}
}
