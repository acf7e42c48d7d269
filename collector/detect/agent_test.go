package detect_test

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// Calls as an agent describes them, one for each way in which a request shows a credential or an answer personal data, and what
// the built-in rules find in them. The rules' own tests are written by hand and may miss what agents really send.
func TestCallsAsAgentsDescribeThem(t *testing.T) {
	f, err := os.Open("testdata/agent.calls.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := mustDetector(t, 100)
	n := 0
	for s := bufio.NewScanner(f); s.Scan(); n++ {
		c := mustCall(t, s.Text())
		c.Service, c.Route = "h", c.Path
		d.Observe(c)
	}
	var got []string
	for _, f := range d.Findings() {
		got = append(got, fmt.Sprintf("%-34s %-7s %-4s %s", f.Rule, f.Severity, f.Method, f.Route))
	}
	slices.Sort(got)
	want, err := os.ReadFile("testdata/agent.want")
	if err != nil {
		t.Fatal(err)
	}
	if have := strings.Join(got, "\n") + "\n"; have != string(want) || n != 23 {
		t.Errorf("%d calls gave\n%swant\n%s", n, have, want)
	}
}
