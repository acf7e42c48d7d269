package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheTokenIsFound looks where the help says: --token-file, else --data. None is sent to a server of which nothing was said.
func TestTheTokenIsFound(t *testing.T) {
	dir := func(token string) string {
		d := t.TempDir()
		if err := os.WriteFile(filepath.Join(d, tokenName), []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return d
	}
	data, other := dir("data"), dir("other")
	for name, c := range map[string]struct {
		at    where
		token string
	}{
		"nothing named": {where{}, ""},
		"data":          {where{data: data}, "data"},
		"file":          {where{data: data, tokenFile: filepath.Join(other, tokenName)}, "other"},
	} {
		got := &client{}
		if err := c.at.readToken(got); err != nil || got.token != c.token {
			t.Errorf("%s: %q, %v; want %q", name, got.token, err, c.token)
		}
	}
	if err := (&where{data: t.TempDir()}).readToken(&client{}); err == nil || !strings.Contains(err.Error(), "--token-file") {
		t.Errorf("a directory without one: %v", err)
	}
}
