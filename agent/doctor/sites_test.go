package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spile/spile/agent/target"
)

func siteCheck(t *testing.T, h Host) Check {
	t.Helper()
	for _, c := range Doctor(context.Background(), h) {
		if c.Name == "probe_sites" {
			return c
		}
	}
	t.Fatal("no check of probe sites")
	return Check{}
}

func TestProbeSites(t *testing.T) {
	files := []target.File{
		{Path: "/usr/lib/libssl.so.3", Library: "OpenSSL", Sites: []target.Site{
			{Symbol: "SSL_read", Offset: 0x100, Code: "sub", Class: target.SingleStep, Inner: &target.Place{Name: "call target of SSL_read_ex", Offset: 0x200, Class: target.Emulated}},
			{Symbol: "SSL_write", Offset: 0x300, Code: "endbr64", Class: target.SingleStep, NoInner: "it has a loop"},
			{Symbol: "SSL_do_handshake", Offset: 0x400, Code: "push", Class: target.Emulated},
		}},
		{Path: "/usr/lib/i386-linux-gnu/libssl.so.3", Problem: &target.Problem{What: "read it", Why: "32 bits", Remedy: "x", Cause: target.ErrNotELF}},
	}
	h := madeUp(t)
	h.Libraries = func() []target.File { return files }
	c := siteCheck(t, h)
	if c.Verdict != OK || c.Detail != "of 3 functions, 1 begin with an instruction that is cheap to probe and 1 have a cheap one inside" {
		t.Errorf("%+v", c)
	}
	lines := ""
	for _, s := range c.Sites {
		lines += s.String() + "\n"
	}
	const want = `SSL_read: sub, single_step; inner: call target of SSL_read_ex, +0x200, emulated
SSL_write: endbr64, single_step; no cheaper place: it has a loop
SSL_do_handshake: push, emulated
`
	if lines != want {
		t.Errorf("got\n%s, want\n%s", lines, want)
	}
	text, err := json.Marshal(c.Sites[:2])
	const wantJSON = `[{"file":"/usr/lib/libssl.so.3","library":"OpenSSL","function":"SSL_read","offset":256,"instruction":"sub","class":"single_step",` +
		`"inner":{"name":"call target of SSL_read_ex","offset":512,"class":"emulated"}},` +
		`{"file":"/usr/lib/libssl.so.3","library":"OpenSSL","function":"SSL_write","offset":768,"instruction":"endbr64","class":"single_step","no_inner":"it has a loop"}]`
	if err != nil || string(text) != wantJSON {
		t.Errorf("got %s, %v", text, err)
	}

	files = append(files, target.File{Path: "/usr/lib/libgnutls.so.30", Problem: &target.Problem{What: "read it", Why: "it is cut short", Remedy: "reinstall it"}})
	if c := siteCheck(t, h); c.Verdict != Warn || !strings.Contains(c.Detail, "cut short") || c.Remedy != "reinstall it" || len(c.Sites) != 3 {
		t.Errorf("%+v", c)
	}
	h.Libraries = func() []target.File { time.Sleep(patience * 2); return nil }
	if c := siteCheck(t, h); c.Verdict != Warn || !strings.Contains(c.Detail, "no answer in time") {
		t.Errorf("%+v", c)
	}
}

// TestInstalledSites finds the libraries of this host: each function says what its probe would cost, and why.
func TestInstalledSites(t *testing.T) {
	began := time.Now()
	files := ThisHost().Libraries()
	took := time.Since(began)
	if took > time.Second {
		t.Errorf("took %v of the %v that all checks have", took, patience)
	}
	var ids []string
	for _, f := range files {
		if f.Handle != nil {
			t.Errorf("%s stays open", f.Path)
		}
		if id := fmt.Sprint(f.ID); slices.Contains(ids, id) {
			t.Errorf("%s comes twice", f.Path)
		} else {
			ids = append(ids, id)
		}
		for _, s := range f.Sites {
			if s.Code == "" || s.Class == "" || s.Class == target.Unknown {
				t.Errorf("%s: %+v", f.Path, s)
			}
		}
	}
}
