package origin

import (
	"os"
	"strings"
	"testing"
)

func TestParseCgroupGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/cgroup.tsv")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, "\t")
		if len(fields) != 3 {
			t.Fatalf("malformed golden line %q", line)
		}
		n++
		want := Placement{Container: strings.TrimPrefix(fields[1], "-"), PodUID: strings.TrimPrefix(fields[2], "-")}
		got := ParseCgroup(fields[0] + "\n")
		got.unified = false
		if got != want {
			t.Errorf("%s\n got %+v\nwant %+v", fields[0], got, want)
		}
	}
	if n < 40 {
		t.Fatalf("%d golden lines, want at least 40", n)
	}
}

func TestParseCgroupChoosesHierarchy(t *testing.T) {
	a, b, c := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	for name, tc := range map[string]struct {
		text    string
		want    string
		unified bool
	}{
		"v2 wins":                 {"9:name=systemd:/docker/" + a + "\n4:memory:/docker/" + b + "\n0::/docker/" + c + "\n", c, true},
		"v2 line is empty":        {"9:name=systemd:/docker/" + a + "\n4:memory:/docker/" + b + "\n0::/\n", b, false},
		"memory before systemd":   {"4:memory:/docker/" + b + "\n9:name=systemd:/docker/" + a + "\n", b, false},
		"only an odd hierarchy":   {"3:freezer:/docker/" + a + "\n", a, false},
		"a path that holds colon": {"0::/system.slice/a:b:" + a + "\n", a, true},
		"nothing":                 {"", "", false},
		"garbage":                 {"::::\n\x00\n0:\n", "", false},
	} {
		got := ParseCgroup(tc.text)
		if got.Container != tc.want || got.unified != tc.unified {
			t.Errorf("%s: got %q unified=%v, want %q unified=%v", name, got.Container, got.unified, tc.want, tc.unified)
		}
	}
	// A container beats a pod alone, whichever hierarchy says so.
	const uid = "0d5a7e31-9c44-4b7e-8f10-2b6c1d3e4f50"
	got := ParseCgroup("0::/kubepods/pod" + uid + "\n4:memory:/kubepods/pod" + uid + "/" + a + "\n")
	if got.Container != a || got.PodUID != uid {
		t.Errorf("pod alone hid the container: %+v", got)
	}
}

func FuzzParseCgroup(f *testing.F) {
	text, err := os.ReadFile("testdata/cgroup.tsv")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	for line := range strings.Lines(string(text)) {
		f.Add(strings.Split(line, "\t")[0])
	}
	f.Fuzz(func(t *testing.T, text string) {
		p := ParseCgroup(text)
		if p.PodUID != "" && len(p.PodUID) != 32 && len(p.PodUID) != 36 {
			t.Errorf("pod uid %q", p.PodUID)
		}
		if !strings.Contains(text, p.Container) {
			t.Errorf("container %q is nowhere in the text", p.Container)
		}
	})
}
