package target

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDenylistRefusesWhatItCannotRead(t *testing.T) {
	for text, want := range map[string]string{
		"":           "a value is missing; use exe=GLOB or cgroup=PATH",
		"exe":        "a value is missing",
		"exe=":       "a value is missing",
		"exe=[":      "the pattern is malformed",
		"pid=3":      `unknown kind "pid"; use exe=GLOB or cgroup=PATH`,
		"!exe=nginx": `unknown kind "!exe"`,
		"cgroup=/":   "every process is in this cgroup",
	} {
		if _, err := OpenDenylist([]string{text}, "/proc"); !errors.Is(err, ErrDeny) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	d, err := OpenDenylist(nil, "/proc")
	if err != nil || !d.Empty() || d.Why(1, "/sbin/init") != "" {
		t.Errorf("an empty list denies: %v", err)
	}
	if none := (*Denylist)(nil); !none.Empty() || none.Why(1, "/sbin/init") != "" {
		t.Error("no list denies")
	}
}

func TestDenylistNamesWhoIsOnIt(t *testing.T) {
	proc := t.TempDir()
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("self/mountinfo", "30 23 0:26 / "+root+" rw shared:4 - cgroup2 cgroup2 rw\n")
	write("1/cgroup", "0::/system.slice/db.service/worker\n")
	write("2/cgroup", "0::/system.slice/db.service2\n")
	write("3/cgroup", "4:memory:/other\n0::/user.slice\n")
	write("4/cgroup", "0::/../db.service\n")
	link := filepath.Join(t.TempDir(), "server")
	real := filepath.Join(t.TempDir(), "server[1]")
	if err := os.WriteFile(real, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDenylist([]string{"exe=mysqld*", "exe=" + link, "cgroup=" + root + "/user.slice/", "cgroup=system.slice/db.service"}, proc)
	if err != nil {
		t.Fatal(err)
	}
	const program, cgroup = "its program is on the denylist (--deny exe)", "its cgroup is on the denylist (--deny cgroup)"
	for _, tc := range []struct {
		pid  uint32
		exe  string
		want string
	}{
		{2, "/opt/mysqld-9", program},
		{2, "/opt/mysqld (deleted)", program},
		{2, "/opt/mysql", ""},
		{2, real, program},
		{2, "", ""},
		{1, "/bin/x", cgroup},
		{2, "/bin/x", ""},
		{3, "/bin/x", cgroup},
		{4, "/bin/x", ""},
		{5, "/bin/x", ""}, // gone
	} {
		if got := d.Why(tc.pid, tc.exe); got != tc.want {
			t.Errorf("process %d of %s: %q, want %q", tc.pid, tc.exe, got, tc.want)
		}
	}
}

func TestADenylistThatNobodyTakes(t *testing.T) {
	d, err := OpenDenylist([]string{"exe=x"}, "/proc")
	if err != nil {
		t.Fatal(err)
	}
	w := watch(t, newLedger(), &verdicts{})
	w.config.Deny = d
	if err := w.Scan(); err == nil || !strings.Contains(err.Error(), "denylist") {
		t.Errorf("%v", err)
	}
}

func TestAnExplanationNamesTheDenylist(t *testing.T) {
	path := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	c := python(t, nil)
	c.load(t, path)
	e := explainer(func(Identity, uint32) (bool, bool, string) { return true, true, "" })
	var err error
	if e.Deny, err = OpenDenylist([]string{"exe=*/python3*"}, "/proc"); err != nil {
		t.Fatal(err)
	}
	if _, reason := ask(t, e, c.pid()); !strings.Contains(reason, "OpenSSL is not decoded: its program is on the denylist") {
		t.Errorf("%q", reason)
	}
}
