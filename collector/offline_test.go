package main

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const recorded = `{"time":"2026-11-21T10:00:02Z","protocol":"http/1.1","method":"GET","authority":"shop.example","path":"/users/42/orders","status_code":200,"auth":{"scheme":"bearer","location":"header"}}
{"time":"2026-11-21T10:00:01Z","protocol":"http/1.1","scheme":"https","method":"GET","authority":"shop.example","path":"/users/43/orders","status_code":201,"auth":{"scheme":"api_key","location":"query","name":"key"},"unknown":[1,{"a":2}]}
{"time":"2026-11-21T10:00:03Z","method":"GET","authority":"shop.example","path":"/nothing","status_code":404}
`

func TestReplay(t *testing.T) {
	file := write(t, "calls.jsonl", recorded)
	calls := lines[callLine](t, ok(t, "replay", file, "--calls", "-o", "json"))
	if len(calls) != 3 || calls[0].Path != "/users/42/orders" || calls[0].Route != "/users/{id}/orders" || calls[1].Service != "shop.example" {
		t.Errorf("calls in the order of the input: %+v", calls)
	}
	endpoints := lines[endpointLine](t, ok(t, "replay", file, "--endpoints", "-o", "json"))
	if len(endpoints) != 1 || endpoints[0].Calls != 2 || endpoints[0].Statuses["201"] != 1 {
		t.Errorf("endpoints: %+v", endpoints)
	}
	findings := ok(t, "replay", file, "-o", "json")
	if fs := lines[findingLine](t, findings); len(fs) != 1 || fs[0].Rule != "credential-in-url" {
		t.Errorf("findings: %s", findings)
	}
	for _, what := range []string{"--calls", "--endpoints", "--findings"} {
		if out := ok(t, "replay", file, what); !strings.Contains(out, "shop.example") {
			t.Errorf("%s as a table: %s", what, out)
		}
	}
	w, out, _ := testWorld(recorded, "replay", "-", "--findings", "-o", "json")
	if code := run(context.Background(), w); code != 0 || out.String() != findings {
		t.Errorf("standard input gives another answer than the file: %d %s", code, out)
	}
	code, _, errs := spile(t, "replay", write(t, "bad", recorded+"{\"time\": 3}\n"))
	if code != 1 || !strings.Contains(errs, "line 4") {
		t.Errorf("a bad line: %d %s", code, errs)
	}
	if code, _, errs := spile(t, "replay", "/nonexistent"); code != 1 || !strings.Contains(errs, "/nonexistent") {
		t.Errorf("no file: %d %s", code, errs)
	}
}

// TestReplayGivesWhatTheCollectorGave compares the online answer with the offline one for the same calls.
func TestReplayGivesWhatTheCollectorGave(t *testing.T) {
	r := start(t, t.TempDir())
	a := r.agent("n1", 1)
	paths := []string{"/users/1", "/users/2/orders", "/items/9a8b7c6d", "/health", "/nothing"}
	const total = 300
	for i := range total / 10 {
		batch := make([]string, 10)
		for k := range batch {
			batch[k] = paths[rand.IntN(len(paths))]
		}
		sent := batchOf(i*10, batch)
		a.calls(sent...)
	}
	until(t, "all calls", func() bool {
		sum := uint64(0)
		for _, e := range byRoute(t, r, "--all") {
			sum += e.Calls
		}
		return sum == total
	})
	until(t, "findings are stored", func() bool { return strings.Count(ok(t, "findings", "--data", r.data, "-o", "json"), "\n") > 0 })
	file := filepath.Join(t.TempDir(), "calls.jsonl")
	if err := os.WriteFile(file, []byte(ok(t, "calls", "--since", "1h", "--data", r.data, "-o", "json")), 0o600); err != nil {
		t.Fatal(err)
	}
	if online, offline := ok(t, "endpoints", "--data", r.data, "-o", "json"), ok(t, "replay", file, "--endpoints", "-o", "json"); online != offline {
		t.Errorf("endpoints differ:\n%s\n%s", online, offline)
	}
	if first, second := ok(t, "replay", file, "-o", "json"), ok(t, "replay", file, "-o", "json"); first != second || first == "" {
		t.Errorf("two replays differ:\n%s\n%s", first, second)
	}
}
