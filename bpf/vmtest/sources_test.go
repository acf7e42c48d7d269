package vmtest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func etc(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sources.list.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestMirrorsComeFromTheMachine(t *testing.T) {
	stanzas := "Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main contrib\n" +
		"Signed-By:\n -----BEGIN\n .\n key\n\nTypes: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\nEnabled: yes\n"
	others := "Types: deb\nURIs: http://other.example/apt\nSuites: stable\nComponents: main\n\nTypes: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n"
	lines := "# deb http://comment.example/debian sid main\ndeb-src http://source.example/debian bookworm main\n" +
		"deb [arch=amd64 signed-by=/k.gpg trusted=yes] http://mirror.example/debian bookworm main non-free # here\ndeb http://mirror.example/security/debian bookworm/updates main\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  map[string]string // stanza by suite
	}{
		"deb822": {map[string]string{"sources.list.d/a.sources": others, "sources.list.d/debian.sources": stanzas, "sources.list.d/debian.sources.off": others}, map[string]string{
			"trixie-backports":  "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie-backports\nComponents: main\nSigned-By:\n -----BEGIN\n .\n key\n",
			"bullseye-security": "Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bullseye-security\nComponents: main\n",
		}},
		"one line": {map[string]string{"sources.list": lines}, map[string]string{
			"sid":              "Types: deb\nURIs: http://mirror.example/debian\nSuites: sid\nComponents: main\nsigned-by: /k.gpg\ntrusted: yes\n",
			"trixie-security":  "Types: deb\nURIs: http://mirror.example/security/debian\nSuites: trixie-security\nComponents: main\n",
			"trixie-backports": "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie-backports\nComponents: main\nsigned-by: /k.gpg\ntrusted: yes\n",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			all, err := readSources(etc(t, c.files))
			if err != nil {
				t.Fatal(err)
			}
			if all.own() != "bookworm" {
				t.Errorf("this machine's release is %q", all.own())
			}
			for suite, want := range c.want {
				s, err := all.of(suite)
				if err != nil || s.stanza() != want {
					t.Errorf("%s: %v: %q, want %q", suite, err, s.stanza(), want)
				}
			}
		})
	}
}

func TestNoDebianMirror(t *testing.T) {
	dir := etc(t, map[string]string{"sources.list": "deb http://other.example/ubuntu noble main\ndeb http://other.example/apt stable main\n"})
	if _, err := readSources(dir); !errors.Is(err, ErrNoMirror) {
		t.Errorf("%v", err)
	}
	// Without a mirror, a kernel of an earlier run serves, and it is said.
	cache := t.TempDir()
	var said strings.Builder
	archive, err := OpenArchive(cache, dir, func(format string, args ...any) { said.WriteString(format) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Kernel(t.Context(), "6.1"); !errors.Is(err, ErrNoKernel) || !strings.Contains(err.Error(), "kernel 6.1:") {
		t.Errorf("%v, want the series that is missing", err)
	}
	for _, file := range []string{"linux-image-6.1.0-9-cloud-amd64/boot/vmlinuz-6.1.0-9-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64/boot/vmlinuz-6.1.0-56-cloud-amd64",
		"linux-binary-7.3.4+deb13-cloud-amd64/usr/lib/modules/7.3.4+deb13-cloud-amd64/vmlinuz", "linux-image-6.12.5+deb13-cloud-amd64/nothing"} {
		path := filepath.Join(cache, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for series, want := range map[string]Kernel{"6.1": {Series: "6.1", Version: "6.1.0-56-cloud-amd64"}, Newest: {Series: "7.3", Version: "7.3.4+deb13-cloud-amd64"}} {
		said.Reset()
		k, err := archive.Kernel(t.Context(), series)
		if k.Image = ""; err != nil || k != want {
			t.Errorf("%s: %+v, %v; want %+v", series, k, err, want)
		}
		if !strings.Contains(said.String(), "of an earlier run is used") {
			t.Errorf("it was not said: %q", said.String())
		}
	}
	for _, series := range []string{"6.12", "6.18", "4.19"} {
		if _, err := archive.Kernel(t.Context(), series); !errors.Is(err, ErrNoKernel) || !strings.Contains(err.Error(), "kernel "+series+":") {
			t.Errorf("%s: %v", series, err)
		}
	}
}

func TestHighestOfASeries(t *testing.T) {
	names := strings.Fields(`linux-image-cloud-amd64 linux-image-6.1-cloud-amd64 linux-image-6.1.0-9-cloud-amd64 linux-image-6.1.0-56-cloud-amd64
		linux-image-6.1.0-57-cloud-amd64-dbg linux-image-6.1.0-58-cloud-amd64-unsigned linux-image-6.1.0-59-amd64 linux-image-6.1.0-0.deb11.99-cloud-amd64
		linux-image-6.12.90+deb13.1-cloud-amd64 linux-image-6.12.117+deb13-cloud-amd64 linux-binary-7.2.13+deb14-cloud-amd64 linux-binary-7.3.4+deb13-cloud-amd64
		linux-binary-unsigned-7.4.1+deb13-cloud-amd64 linux-headers-7.5.1+deb13-cloud-amd64`)
	for series, want := range map[string]string{"6.1": "6.1.0-56-cloud-amd64", "6.12": "6.12.117+deb13-cloud-amd64", Newest: "7.3.4+deb13-cloud-amd64", "5.10": "", "6.18": ""} {
		if got := highest(series, names); got != want {
			t.Errorf("%s: %q, want %q", series, got, want)
		}
	}
}
