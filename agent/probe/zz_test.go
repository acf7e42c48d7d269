package probe

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

func TestZZ(t *testing.T) {
	for _, slots := range []int{1, 16, 64, 512} {
		programs := newCounting(t, true)
		dir := t.TempDir()
		r := New(programs, DefaultTimes())
		r.slots = make(chan struct{}, slots)
		path := library(t, filepath.Join(dir, "x"))
		c := newCaller(t, path)
		n := 40
		if slots == 1 {
			n = 3
		}
		began := time.Now()
		for i := range n {
			f := described(t, library(t, filepath.Join(dir, fmt.Sprint(i))))
			if !r.Use(c.process(), f) {
				t.Fatal(r.List())
			}
		}
		at := time.Since(began)
		links := 0
		for _, e := range r.files {
			links += len(e.links)
		}
		began = time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := r.Close(ctx)
		cancel()
		t.Logf("slots %d: %d files %d links attached in %v, closed in %v %v", slots, n, links, at, time.Since(began), err)
	}
}
