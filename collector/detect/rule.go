package detect

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/common/types"
	"go.yaml.in/yaml/v3"

	v1 "github.com/spile/spile/proto/spile/v1"
)

// maxRuleBytes bounds one rule file.
const maxRuleBytes = 64 << 10

// ErrRule is what every refusal of a rule wraps.
var ErrRule = errors.New("bad rule")

//go:embed rules/*.yaml
var builtin embed.FS

// Rule is one rule as its YAML file says it. An unknown key is an error.
type Rule struct {
	ID      string `yaml:"id"`
	Version int    `yaml:"version"`
	Title   string `yaml:"title"`
	// Severity is "info", "low", "medium", "high" or "critical".
	Severity   string  `yaml:"severity"`
	Confidence float64 `yaml:"confidence"`
	OWASP      string  `yaml:"owasp"`
	CWE        string  `yaml:"cwe"`
	Attack     string  `yaml:"attack"`
	// Needs names facts (see facts.go) that a call must have before When is evaluated.
	Needs []string `yaml:"needs"`
	// When is a CEL condition over the variable call, a spile.v1.Call.
	When string `yaml:"when"`
	// SeverityIf changes the severity of a matching call: the first that holds wins.
	SeverityIf []SeverityIf `yaml:"severity_if"`
	// Group says what makes two matches one finding: "service", "method", "route", "principal".
	Group []string `yaml:"group"`
	// Why is a CEL string over call: the evidence for a person.
	Why   string `yaml:"why"`
	Tests []Test `yaml:"tests"`

	program program
}

// SeverityIf is one step of a rule's severity.
type SeverityIf struct {
	When     string `yaml:"when"`
	Severity string `yaml:"severity"`
}

// Rules are compiled rules, in order of id. Any number of detectors share them.
type Rules struct {
	list []*Rule
	// adapter makes CEL values of calls.
	adapter types.Adapter
}

func newRules(list []*Rule) (*Rules, error) {
	adapter, err := types.NewRegistry(&v1.Call{})
	if err != nil {
		return nil, fmt.Errorf("register calls with CEL: %w", err)
	}
	slices.SortFunc(list, func(a, b *Rule) int { return strings.Compare(a.ID, b.ID) })
	return &Rules{list: list, adapter: adapter}, nil
}

// Builtin compiles the rules that are part of the program.
func Builtin() (*Rules, error) {
	sub, err := fs.Sub(builtin, "rules")
	if err != nil {
		return nil, fmt.Errorf("open built-in rules: %w", err)
	}
	return Load(sub)
}

// Load compiles every *.yaml file of a directory. One bad rule refuses all, so that none is missing unnoticed.
func Load(dir fs.FS) (*Rules, error) {
	names, err := fs.Glob(dir, "*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	var list []*Rule
	for _, name := range names {
		data, err := readCapped(dir, name)
		if err != nil {
			return nil, fmt.Errorf("read rule %s: %w", name, err)
		}
		r, err := Parse(data)
		if err != nil {
			return nil, fmt.Errorf("load rule %s: %w", name, err)
		}
		if want := strings.TrimSuffix(path.Base(name), ".yaml"); r.ID != want {
			return nil, fmt.Errorf("load rule %s: %w: id %q differs from the file's name", name, ErrRule, r.ID)
		}
		list = append(list, r)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("load rules: %w: no *.yaml file", ErrRule)
	}
	return newRules(list)
}

func readCapped(dir fs.FS, name string) ([]byte, error) {
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRuleBytes+1))
}

// Parse reads, checks and compiles one rule.
func Parse(data []byte) (*Rule, error) {
	if len(data) > maxRuleBytes {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrRule, maxRuleBytes)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	r := &Rule{}
	if err := dec.Decode(r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRule, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: more than one document", ErrRule)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRule, err)
	}
	if err := r.compile(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRule, err)
	}
	return r, nil
}

// check refuses what a rule must not leave open.
func (r *Rule) check() error {
	for _, c := range []struct {
		key, value, pattern string
	}{
		{"id", r.ID, `^[a-z][a-z0-9]*(-[a-z0-9]+)*$`},
		{"owasp", r.OWASP, `^(API([1-9]|10):20\d\d)?$`},
		{"cwe", r.CWE, `^(CWE-\d+)?$`},
		{"attack", r.Attack, `^(T\d{4}(\.\d{3})?)?$`},
	} {
		if !regexp.MustCompile(c.pattern).MatchString(c.value) {
			return fmt.Errorf("%s %q does not match %s", c.key, c.value, c.pattern)
		}
	}
	switch {
	case r.Version < 1:
		return fmt.Errorf("version %d is not positive", r.Version)
	case strings.TrimSpace(r.Title) == "":
		return errors.New("title is empty")
	case severityRank(r.Severity) == 0:
		return fmt.Errorf("severity %q is not one of %s", r.Severity, strings.Join(severities(), ", "))
	case !(r.Confidence > 0 && r.Confidence <= 1):
		return fmt.Errorf("confidence %v is not in (0, 1]", r.Confidence)
	case len(r.Needs) == 0:
		return errors.New("needs is empty: name at least one fact, so that most calls cost nothing")
	}
	for _, s := range r.SeverityIf {
		if severityRank(s.Severity) == 0 {
			return fmt.Errorf("severity_if severity %q is not one of %s", s.Severity, strings.Join(severities(), ", "))
		}
	}
	for i, g := range r.Group {
		if !slices.Contains([]string{"service", "method", "route", "principal"}, g) {
			return fmt.Errorf("group %q is not one of service, method, route, principal", g)
		}
		if slices.Contains(r.Group[:i], g) {
			return fmt.Errorf("group %q is named twice", g)
		}
	}
	if !slices.Contains(r.Group, "service") {
		return errors.New("group lacks service: a finding belongs to one partition")
	}
	return r.checkTests()
}

func severities() []string { return []string{"info", "low", "medium", "high", "critical"} }

// severityRank orders severities; 0 is none of them.
func severityRank(s string) int { return slices.Index(severities(), s) + 1 }
