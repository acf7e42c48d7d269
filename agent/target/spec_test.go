package target

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestParseSpec(t *testing.T) {
	got, err := ParseSpec([]string{"netns=self", "netns=/run/netns/a=b", "cgroup=/system.slice", "exe=/usr/*/nginx", "!exe=nginx-debug",
		" pid=42", "port=8443", "!port=22", "!cgroup=kubepods", "!netns=/proc/1/ns/net", "!pid=1"})
	want := Spec{
		Include: Terms{NetNS: []string{"self", "/run/netns/a=b"}, Cgroups: []string{"/system.slice"}, Exes: []string{"/usr/*/nginx"}, PIDs: []uint32{42}, Ports: []uint16{8443}},
		Exclude: Terms{NetNS: []string{"/proc/1/ns/net"}, Cgroups: []string{"kubepods"}, Exes: []string{"nginx-debug"}, PIDs: []uint32{1}, Ports: []uint16{22}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if got.Everything() {
		t.Error("a spec with terms is not everything")
	}
	if none, err := ParseSpec(nil); err != nil || !none.Everything() {
		t.Errorf("no target: %+v, %v, want everything", none, err)
	}
}

func TestParseSpecSaysWhatToDo(t *testing.T) {
	for text, remedy := range map[string]string{
		"":                      "use netns=",
		"nginx":                 "use netns=",
		"exe=":                  "use netns=",
		"!":                     "use netns=",
		"!!pid=1":               "unknown kind",
		"uid=0":                 "use netns=",
		"exe=[a":                "close every [",
		"pid=0":                 "a number from 1",
		"pid=-1":                "a number from 1",
		"pid=nginx":             "a number from 1",
		"pid=99999999999":       "a number from 1",
		"port=0":                "from 1 to 65535",
		"port=65536":            "from 1 to 65535",
		"port=https":            "from 1 to 65535",
		"NETNS=self":            "unknown kind",
		"pid=1\npid=2":          "a number from 1",
		"port=8443,8444":        "a number from 1",
		"cgroup":                "use netns=",
		"port =80":              "unknown kind",
		"exe=/usr/bin/python\\": "end no pattern",
	} {
		_, err := ParseSpec([]string{text})
		if !errors.Is(err, ErrSpec) || !strings.Contains(err.Error(), remedy) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want one line that says %q", text, err, remedy)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{"netns=self", "!exe=/a/[b-c]*", "pid=1", "port=65535", "cgroup=/", "!", "="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		spec, err := ParseSpec([]string{text})
		if (err == nil) == spec.Everything() {
			t.Errorf("%q: %+v, %v: neither refused nor understood", text, spec, err)
		}
	})
}
