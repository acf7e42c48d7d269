package siem

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestParseConfig(t *testing.T) {
	got, err := ParseConfig("file,path=/var/log/spile.jsonl,format=ocsf,name=siem-1,max_bytes=5000,keep=3")
	want := Config{Name: "siem-1", Kind: "file", Format: "ocsf", Path: "/var/log/spile.jsonl", MaxBytes: 5000, Keep: 3}
	if err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"file,paht=x", "file,path", "file,keep=3x", "file,max_bytes=", "file,keep=1e3"} {
		if _, err := ParseConfig(bad); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: got %v, want ErrConfig", bad, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	w := World{Stdout: io.Discard}
	for want, c := range map[string]Config{
		"file, stdout":   {Kind: "kafka"},
		"kind":           {Kind: ""},
		"native, ocsf":   {Kind: "stdout", Format: "cef"},
		"needs a path":   {Kind: "file"},
		"letters":        {Kind: "stdout", Name: "a.b"},
		"below 4096":     {Kind: "stdout", MaxBytes: 10},
		"between 1 and":  {Kind: "stdout", Keep: -1},
		"64 at most":     {Kind: "stdout", Name: strings.Repeat("n", 65)},
		"max_bytes -1":   {Kind: "stdout", MaxBytes: -1},
		"keep 1001 is":   {Kind: "stdout", Keep: 1001},
		`format "NATIVE`: {Kind: "stdout", Format: "NATIVE"},
	} {
		if _, err := Open(c, w); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want ErrConfig with %q", c, err, want)
		}
	}
	o, err := Open(Config{Kind: "stdout"}, w)
	if err != nil {
		t.Fatal(err)
	}
	if s := o.Status(); s.Name != "stdout" || s.Kind != "stdout" || s.Format != "native" || o.Durable() != "sink-stdout" {
		t.Fatalf("%v as %s", s, o.Durable())
	}
}
