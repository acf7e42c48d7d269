package detect_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/spile/spile/collector/detect"
)

func builtinText(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("rules/credential-in-url.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestParseRefuses(t *testing.T) {
	good := builtinText(t)
	if _, err := detect.Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	nested := "when: call.request.fields.all(a, call.request.fields.all(b, call.request.fields.all(c, a.path == b.path && b.path == c.path)))"
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown key":          {"version: 1", "version: 1\nversoin: 2", "versoin"},
		"unknown key in test":  {"  - name: presigned and refused", "  - nmae: x\n    name: presigned and refused", "nmae"},
		"bad id":               {"id: credential-in-url", "id: Credential", "id"},
		"no version":           {"version: 1", "version: 0", "version"},
		"no title":             {"title: A credential is sent in the URL", "title: ' '", "title"},
		"unknown severity":     {"severity: medium\n", "severity: dreadful\n", "dreadful"},
		"unknown severity_if":  {"- {severity: low, when: call.auth", "- {severity: lowest, when: call.auth", "lowest"},
		"confidence above one": {"confidence: 0.9", "confidence: 9", "confidence"},
		"confidence not a number": {
			"confidence: 0.9", "confidence: .nan", "confidence"},
		"bad cwe":             {"CWE-598", "598", "cwe"},
		"bad owasp":           {"API2:2023", "API11:2023", "owasp"},
		"bad attack":          {"T1552", "1552", "attack"},
		"no needs":            {"needs: [url_credential]", "needs: []", "needs"},
		"unknown need":        {"needs: [url_credential]", "needs: [luck]", "luck"},
		"unknown group":       {"group: [service, method, route]", "group: [service, path]", "path"},
		"group twice":         {"group: [service, method, route]", "group: [service, service]", "twice"},
		"group lacks service": {"group: [service, method, route]", "group: [route]", "service"},
		"when not boolean":    {"when: >-\n  call.method", "when: call.path\nx: >-\n  call.method", ""},
		"two documents":       {"id: credential-in-url", "---\nid: a\n---\nid: credential-in-url", ""},
	} {
		t.Run(name, func(t *testing.T) {
			bad := strings.Replace(good, c.old, c.new, 1)
			if bad == good {
				t.Fatalf("%q is not in the rule", c.old)
			}
			_, err := detect.Parse([]byte(bad))
			if !errors.Is(err, detect.ErrRule) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want ErrRule that names %q", err, c.want)
			}
		})
	}
	for name, c := range map[string]struct{ when, want string }{
		"not CEL":       {"when: 'call.method =='", "when"},
		"unknown field": {"when: call.body != ''", "body"},
		"wrong type":    {"when: call.method", "gives string"},
		"empty":         {"when: ''", "empty"},
		"too costly":    {nested, "costs up to"},
	} {
		t.Run(name, func(t *testing.T) {
			from := strings.Index(good, "when: >-")
			to := strings.Index(good, "severity_if:")
			_, err := detect.Parse([]byte(good[:from] + c.when + "\n" + good[to:]))
			if !errors.Is(err, detect.ErrRule) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want ErrRule that names %q", err, c.want)
			}
		})
	}
}

func TestRuleNeedsTestsOfBothKinds(t *testing.T) {
	good := builtinText(t)
	for _, cut := range []string{"  - name: in header or body", "  - name: an API key"} {
		i := strings.Index(good, cut)
		if i < 0 {
			t.Fatal(cut)
		}
		if _, err := detect.Parse([]byte(good[:i])); !errors.Is(err, detect.ErrRule) {
			t.Fatalf("rule cut at %q: got %v, want ErrRule", cut, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	good := []byte(builtinText(t))
	for name, dir := range map[string]fstest.MapFS{
		"no rule":         {},
		"other file name": {"other.yaml": {Data: good}},
		"one bad of two":  {"credential-in-url.yaml": {Data: good}, "bad.yaml": {Data: []byte("id: bad")}},
		"too large":       {"big.yaml": {Data: append([]byte("# "), make([]byte, 65<<10)...)}},
	} {
		if _, err := detect.Load(dir); !errors.Is(err, detect.ErrRule) {
			t.Errorf("%s: got %v, want ErrRule", name, err)
		}
	}
}

// A rule whose test is wrong must not verify: otherwise the tests inside rules prove nothing.
func TestVerifyCanFail(t *testing.T) {
	good := builtinText(t)
	for _, c := range [][2]string{
		{"want:\n      - {severity: medium, why: api_key", "want:\n      - {severity: high, why: api_key"},
		{`"auth":{"scheme":"bearer","location":"header"}`, `"auth":{"scheme":"bearer","location":"query"}`},
		{"as key}", "as cookie}"},
		{`"id":"a1"`, `"id":`},
	} {
		bad := strings.Replace(good, c[0], c[1], 1)
		if bad == good {
			t.Fatalf("%q is not in the rule", c[0])
		}
		rules, err := detect.Load(fstest.MapFS{"credential-in-url.yaml": {Data: []byte(bad)}})
		if err != nil {
			t.Fatal(err)
		}
		if err := rules.Verify(); err == nil {
			t.Errorf("rule with %q verifies", c[1])
		}
	}
}

func FuzzParse(f *testing.F) {
	names, err := os.ReadDir("rules")
	if err != nil {
		f.Fatal(err)
	}
	for _, n := range names {
		b, err := os.ReadFile("rules/" + n.Name())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("a: &a [*a, *a]"))
	f.Add([]byte("id: [1]\nwhen: {}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := detect.Parse(data)
		if (r == nil) == (err == nil) {
			t.Fatalf("rule %v with error %v", r, err)
		}
		if err != nil && !errors.Is(err, detect.ErrRule) {
			t.Fatalf("refused with %v, which is not ErrRule", err)
		}
	})
}
