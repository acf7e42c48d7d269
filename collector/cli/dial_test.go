package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestTheTokenIsFound looks where the help says: --token-file, else --data, else the usual directory of this host.
func TestTheTokenIsFound(t *testing.T) {
	dir := func(token string) string {
		d := t.TempDir()
		if err := os.WriteFile(filepath.Join(d, tokenName), []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return d
	}
	usual, data, other := dir("usual"), dir("data"), dir("other")
	for name, c := range map[string]struct {
		at    where
		token string
	}{
		"nothing named":      {where{usual: usual}, "usual"},
		"data":               {where{usual: usual, data: data}, "data"},
		"file":               {where{usual: usual, data: data, tokenFile: filepath.Join(other, tokenName)}, "other"},
		"none there":         {where{usual: t.TempDir()}, ""},
		"for another's host": {where{usual: usual, ca: "ca.crt"}, ""},
	} {
		got := &client{}
		if err := c.at.readToken(got); err != nil || got.token != c.token {
			t.Errorf("%s: %q, %v; want %q", name, got.token, err, c.token)
		}
	}
	if err := (&where{data: t.TempDir()}).readToken(&client{}); err == nil || !strings.Contains(err.Error(), "--token-file") {
		t.Errorf("a directory without one: %v", err)
	}
	var at where
	if at.flags(pflag.NewFlagSet("", pflag.ContinueOnError), World{}); at.usual != DefaultData {
		t.Errorf("the usual directory is %q", at.usual)
	}
}
