package call

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// records is a JSON array of about n bytes, and how many objects it has.
func records(n int) (body string, count uint32) {
	var b strings.Builder
	for ; b.Len() < n; count++ {
		fmt.Fprintf(&b, `{"id":%d,"name":"user %d","email":"user%d@example.com","tags":["a",["b"]],"n":{"m":[1,2]}},`, 1000+count, count, count)
	}
	return "[" + strings.TrimSuffix(b.String(), ",") + "]", count
}

// At a high rate long bodies are described in part, and say so; the number of their records stays right. A moment later all
// is described again.
func TestEffort(t *testing.T) {
	d := describer(t)
	body, count := records(16 << 10)
	last := `,{"id":1,"only_at_the_end":true}]`
	body = strings.TrimSuffix(body, "]") + last
	ask := func(at time.Duration) (whole bool) {
		x := exchange("GET", "/users", "", "", 200, "content-type: application/json", body)
		x.Request.Start = at
		c := d.Describe(Context{}, x)
		if got := c.Response.GetRecords(); got != count+1 {
			t.Fatalf("%d records, want %d", got, count+1)
		}
		seen := false
		for _, f := range c.Response.Fields {
			seen = seen || f.Path == "body[].only_at_the_end"
			if f.Path == "body[].email" && f.Class != classEmail {
				t.Errorf("the class of %s is %q", f.Path, f.Class)
			}
		}
		if said := slices.Contains(c.Coverage, "truncated"); said == seen {
			t.Fatalf("described whole: %v, said to be truncated: %v", seen, said)
		}
		return seen
	}
	whole := 0
	for range 1000 {
		if ask(time.Second) {
			whole++
		}
	}
	if want := effortBytes / len(body); whole != want {
		t.Errorf("%d bodies at one time described whole, want %d", whole, want)
	}
	if !ask(1200 * time.Millisecond) {
		t.Error("a fifth of a second later nothing is paid back")
	}
	for i := range 100 { // 50 a second
		if at := 10*time.Second + time.Duration(i)*20*time.Millisecond; !ask(at) {
			t.Fatalf("at %s, and a rate that can be carried, a body is described in part", at)
		}
	}
	x := exchange("GET", "/users", "", "", 200, "content-type: application/json", `{"small":1}`)
	if c := d.Describe(Context{}, x); slices.Contains(c.Coverage, "truncated") {
		t.Error("a small body is described in part")
	}
}

// Wherever skimming takes over, it counts what the walk would have.
func FuzzSkim(f *testing.F) {
	for _, body := range []string{`[{"a":"x\\\""},[1,2],"]",{}]`, `{"a":[],"b":[[1],[2]],"c":{"d":[1,2,3]}}`, `{"a":{"b":[1,2]},"c":[ ],"d":[3]}`, `[ [ ] , [1] ]`, `"x"`, `[1,2`} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		d := New(Config{})
		walkTo := func(limit int) (uint32, bool) {
			d.tree.reset("body")
			w := walk{d: d, records: -1}
			d.scan.reset([]byte(body))
			for d.scan.pos <= limit {
				token, raw := d.scan.next()
				if token == tokEnd || token == tokTruncated || token == tokInvalid {
					return w.count, token == tokEnd
				}
				w.take(token, raw)
			}
			w.skim(&d.scan)
			return w.count, true
		}
		want, valid := walkTo(len(body))
		for limit := range min(len(body), 200) {
			if got, _ := walkTo(limit); valid && got != want {
				t.Fatalf("%q: %d records when skimmed after %d bytes, want %d", body, got, limit, want)
			}
		}
	})
}

func BenchmarkDescribeLong(b *testing.B) {
	body, _ := records(16 << 10)
	for name, every := range map[string]time.Duration{"whole": 10 * time.Millisecond, "in part": 0} {
		b.Run(name, func(b *testing.B) {
			d := describer(b)
			x := exchange("GET", "/users", "", "", 200, "content-type: application/json", body)
			for i := range b.N {
				x.Request.Start = time.Duration(i) * every
				d.Describe(Context{}, x)
			}
		})
	}
}
