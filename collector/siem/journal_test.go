package siem_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spile/spile/collector/journal"
	"github.com/spile/spile/collector/siem"
	v1 "github.com/spile/spile/proto/spile/v1"
)

// The real journal and a real file: a sink that is absent at first, a restart of everything, and each revision exactly once.
func TestOutletOnTheJournal(t *testing.T) {
	data, dir := t.TempDir(), filepath.Join(t.TempDir(), "later")
	path := filepath.Join(dir, "findings.jsonl")
	var revision uint64

	store := func(j *journal.Journal, findings ...*v1.Finding) {
		t.Helper()
		var entries []journal.Entry
		for _, f := range findings {
			b, err := proto.Marshal(f)
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, journal.Entry{Key: "fi." + f.Id, Value: b})
		}
		next, err := j.Commit(t.Context(), 0, revision, entries, []byte("meta"))
		if err != nil {
			t.Fatal(err)
		}
		revision = next
	}
	finding := func(i int, revision uint64) *v1.Finding {
		return &v1.Finding{Id: fmt.Sprintf("f:%016x", i), Rule: "r", Severity: "high", Revision: revision}
	}
	// life is one life of a collector: it ends when the file holds so many lines.
	life := func(lines int, during func(*journal.Journal, *siem.Outlet)) {
		t.Helper()
		j, err := journal.Open(t.Context(), journal.Config{Dir: data, MaxBytes: 256 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		o, err := siem.Open(siem.Config{Kind: "file", Format: "ocsf", Path: path}, siem.World{Version: "test"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- o.Run(ctx, j.Watch, "fi") }()
		during(j, o)
		until(t, func() bool { b, _ := os.ReadFile(path); return strings.Count(string(b), "\n") >= lines })
		until(t, func() bool { n, err := j.Backlog(t.Context(), o.Durable()); return err == nil && n == 0 })
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}

	life(31, func(j *journal.Journal, o *siem.Outlet) {
		for i := range 30 {
			store(j, finding(i, 1))
		}
		until(t, func() bool { return o.Status().Errors > 0 })
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		// Counted further without news, then raised.
		store(j, finding(3, 1), finding(4, 1))
		store(j, finding(4, 2))
	})
	// A crash cut the last line off after its newline had not been written.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"class_uid":20`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	life(32, func(j *journal.Journal, _ *siem.Outlet) { store(j, finding(30, 1)) })

	seen := map[string]int{}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for text := range strings.Lines(string(b)) {
		var d struct {
			Metadata struct{ UID string }
		}
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			t.Fatalf("%v: %q", err, text)
		}
		seen[d.Metadata.UID]++
	}
	for i := range 31 {
		if uid := fmt.Sprintf("f:%016x:1", i); seen[uid] != 1 {
			t.Errorf("%s delivered %d times", uid, seen[uid])
		}
	}
	if seen["f:0000000000000004:2"] != 1 || len(seen) != 32 {
		t.Errorf("delivered %v", seen)
	}
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited for a minute")
		}
	}
}
