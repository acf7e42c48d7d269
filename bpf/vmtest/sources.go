package vmtest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// ErrNoMirror says that this machine's apt knows no Debian archive.
var ErrNoMirror = errors.New("no Debian archive (a source with the component main and a Debian release as its suite) among apt's sources")

// source is a place that apt installs from, with the fields that make apt trust it.
type source struct {
	uri, suite string
	fields     []string // "Signed-By: ...", continuation lines included
}

// sources are what this machine's apt is configured with. No host name stands here: what the machine may reach, and under
// which name, its own configuration says.
type sources []source

// release matches the suites of Debian itself. Others that call their suite so, and their component main, have no "debian" in
// their address.
var release = regexp.MustCompile(`^(bullseye|bookworm|trixie|forky|sid|stable|oldstable|oldoldstable|testing|unstable)(-security|-updates|-backports|/updates)?$`)

// readSources reads sources.list and sources.list.d below dir, in both of apt's formats (sources.list(5)).
func readSources(dir string) (sources, error) {
	var all sources
	files, err := filepath.Glob(filepath.Join(dir, "sources.list.d", "*"))
	if err != nil {
		return nil, fmt.Errorf("read apt's sources: %w", err)
	}
	for _, file := range append([]string{filepath.Join(dir, "sources.list")}, files...) {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read apt's sources: %w", err)
		}
		switch filepath.Ext(file) {
		case ".list":
			all = append(all, parseList(string(text))...)
		case ".sources":
			all = append(all, parseStanzas(string(text))...)
		}
	}
	all = slices.DeleteFunc(all, func(s source) bool {
		return !release.MatchString(s.suite) || !strings.Contains(s.uri, "debian")
	})
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: %w", dir, ErrNoMirror)
	}
	return all, nil
}

var listLine = regexp.MustCompile(`^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)$`)

// parseList reads the format of one line per source.
func parseList(text string) (all sources) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		m := listLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil || !slices.Contains(strings.Fields(m[4]), "main") {
			continue
		}
		s := source{uri: m[2], suite: m[3]}
		for _, option := range strings.Fields(m[1]) {
			if key, value, ok := strings.Cut(option, "="); ok && carried(key) {
				s.fields = append(s.fields, key+": "+value)
			}
		}
		all = append(all, s)
	}
	return all
}

// parseStanzas reads the format of deb822.
func parseStanzas(text string) (all sources) {
	var fields []string
	flush := func() {
		all = append(all, stanza(fields)...)
		fields = nil
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case (line[0] == ' ' || line[0] == '\t') && len(fields) > 0:
			fields[len(fields)-1] += "\n" + line // an embedded key is many lines
		default:
			fields = append(fields, line)
		}
	}
	flush()
	return all
}

func stanza(fields []string) (all sources) {
	values := map[string]string{}
	var kept []string
	for _, field := range fields {
		key, value, _ := strings.Cut(field, ":")
		values[strings.ToLower(key)] = strings.TrimSpace(value)
		if carried(key) {
			kept = append(kept, field)
		}
	}
	if !slices.Contains(strings.Fields(values["types"]), "deb") || !slices.Contains(strings.Fields(values["components"]), "main") || strings.EqualFold(values["enabled"], "no") {
		return nil
	}
	for _, uri := range strings.Fields(values["uris"]) {
		for _, suite := range strings.Fields(values["suites"]) {
			all = append(all, source{uri: uri, suite: suite, fields: kept})
		}
	}
	return all
}

// carried are the fields that say whom to trust; those that narrow what is read are left behind.
func carried(key string) bool {
	return slices.Contains([]string{"signed-by", "trusted", "check-valid-until", "check-date", "allow-insecure"}, strings.ToLower(key))
}

// of is the source that has a suite: the machine's own entry of this kind (security or not), pointed at the suite.
func (all sources) of(suite string) (source, error) {
	for _, s := range all {
		if security(s.suite) == security(suite) {
			s.suite = suite
			return s, nil
		}
	}
	return source{}, fmt.Errorf("suite %s: %w of its kind", suite, ErrNoMirror)
}

func security(suite string) bool {
	return strings.HasSuffix(suite, "-security") || strings.HasSuffix(suite, "/updates")
}

// own is the codename of the release that this machine runs, as its sources have it.
func (all sources) own() string {
	for _, s := range all {
		if !strings.ContainsAny(s.suite, "-/") {
			return s.suite
		}
	}
	return "stable"
}

// stanza is what apt reads of this source.
func (s source) stanza() string {
	return strings.Join(append([]string{"Types: deb", "URIs: " + s.uri, "Suites: " + s.suite, "Components: main"}, s.fields...), "\n") + "\n"
}
