// Command gotest runs `go test -json`, prints what go test would print, and holds the skipped tests against a list.
//
// A test may skip where a machine lacks something, and must say why. Skips that nobody expected are how a suite rots,
// so each skipped test must match a line of deploy/skips.txt; any other skip fails the run.
// The sum comes before the last line, which is go test's own.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
)

const skipList = "deploy/skips.txt"

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action, Package, Test, Output string
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	expected, err := readSkips(skipList)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	cmd := exec.Command("go", append([]string{"test", "-json", "-count=1", "-p", "1"}, args...)...)
	cmd.Stderr = stderr
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(stderr, "start go test:", err)
		return 2
	}
	t := tally{output: map[string][]string{}, expected: expected, stdout: stdout}
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(stdout, lines.Text())
			continue
		}
		t.add(e)
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(stderr, "read go test:", err)
		return 2
	}
	err = cmd.Wait()
	fmt.Fprintf(stdout, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
	for _, s := range t.unexpected {
		fmt.Fprintf(stdout, "not in %s: %s\n", skipList, s)
	}
	fmt.Fprint(stdout, t.held)
	if err != nil || t.failed > 0 || len(t.unexpected) > 0 {
		return 1
	}
	return 0
}

// tally keeps each test's output until its verdict is known.
type tally struct {
	output                  map[string][]string
	held                    string // go test's latest verdict on a package: the last of them closes the output
	expected                []string
	unexpected              []string
	passed, failed, skipped int
	stdout                  io.Writer
}

func (t *tally) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		if e.Test == "" {
			line := packageLine(e.Output)
			if strings.HasPrefix(line, "ok") || strings.HasPrefix(line, "FAIL") {
				line, t.held = t.held, line
			}
			fmt.Fprint(t.stdout, line)
			return
		}
		t.output[key] = append(t.output[key], e.Output)
	case "build-output":
		fmt.Fprint(t.stdout, e.Output)
	case "pass":
		t.count(&t.passed, e)
	case "fail":
		t.count(&t.failed, e)
		fmt.Fprint(t.stdout, strings.Join(t.output[key], ""))
	case "skip":
		t.count(&t.skipped, e)
		t.skip(e, t.output[key])
	}
	if e.Action == "pass" || e.Action == "fail" || e.Action == "skip" {
		delete(t.output, key)
	}
}

func (t *tally) count(n *int, e event) {
	if e.Test != "" {
		*n++
	}
}

func (t *tally) skip(e event, output []string) {
	if e.Test == "" {
		return // a package without tests
	}
	name := path.Join(strings.TrimPrefix(e.Package, "github.com/spile/spile/"), e.Test)
	reason := "no reason given"
	for _, line := range output {
		if s := strings.TrimSpace(line); s != "" && !strings.HasPrefix(s, "===") && !strings.HasPrefix(s, "---") {
			reason = s
		}
	}
	fmt.Fprintf(t.stdout, "skip  %s: %s\n", name, reason)
	for _, pattern := range t.expected {
		if ok, _ := path.Match(pattern, name); ok {
			return
		}
	}
	t.unexpected = append(t.unexpected, name)
}

// packageLine drops the bare PASS and FAIL lines that -json adds per package.
func packageLine(s string) string {
	if s == "PASS\n" || s == "FAIL\n" {
		return ""
	}
	return s
}

// readSkips reads the list: a pattern (path.Match over room/TestName) a line, "#" begins a comment.
func readSkips(name string) ([]string, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the list of expected skips: %w", err)
	}
	var patterns []string
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			if _, err := path.Match(line, ""); err != nil {
				return nil, fmt.Errorf("%s: %q: %w", name, line, err)
			}
			patterns = append(patterns, line)
		}
	}
	return patterns, nil
}
