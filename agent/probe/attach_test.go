package probe

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
)

func neverInside(*target.Place) verdict { return disagreed }

func classes(n int, c target.Class) []target.Class { return slices.Repeat([]target.Class{c}, n) }

func TestPlacements(t *testing.T) {
	got := plan([]target.Site{
		{Symbol: "SSL_accept", Offset: 1, Enter: "h_enter", Exit: "h_exit"},
		{Symbol: "SSL_connect", Offset: 2, Enter: "h_enter", Exit: "h_exit"},
		{Symbol: "SSL_alias", Offset: 2, Enter: "h_enter", Exit: "h_exit"},
		{Symbol: "SSL_free", Offset: 3, Enter: "f_enter"},
	}, neverInside)
	want := []placement{
		{program: "h_exit", atExit: true, symbols: []string{"SSL_accept", "SSL_connect"}, offsets: []uint64{1, 2}, classes: classes(2, "")},
		{program: "h_enter", symbols: []string{"SSL_accept", "SSL_connect"}, offsets: []uint64{1, 2}, classes: classes(2, "")},
		{program: "f_enter", symbols: []string{"SSL_free"}, offsets: []uint64{3}, classes: classes(1, "")},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestGoReturnsAreEntries(t *testing.T) {
	got := plan([]target.Site{
		{Symbol: "Read", Offset: 1, Enter: "read_enter", Exit: "read_exit", Returns: []uint64{7, 8, 8}},
		{Symbol: "handshake", Offset: 2, Enter: "h_enter", Exit: "read_exit", Returns: []uint64{9}},
		{Symbol: "C", Offset: 3, Exit: "read_exit"},
	}, neverInside)
	want := []placement{
		{program: "read_exit", symbols: []string{"Read", "Read", "handshake"}, offsets: []uint64{7, 8, 9}, classes: classes(3, target.Unknown)},
		{program: "read_exit", atExit: true, symbols: []string{"C"}, offsets: []uint64{3}, classes: classes(1, "")},
		{program: "read_enter", symbols: []string{"Read"}, offsets: []uint64{1}, classes: classes(1, "")},
		{program: "h_enter", symbols: []string{"handshake"}, offsets: []uint64{2}, classes: classes(1, "")},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestARefusalNamesTheRemedyAndNoErrno(t *testing.T) {
	for _, tc := range []struct {
		err         error
		multi       bool
		only        uint32
		why, remedy string
	}{
		{unix.EPERM, true, 0, "does not let this agent", "CAP_BPF and CAP_PERFMON"},
		{unix.EACCES, false, 0, "does not let this agent", "CAP_SYS_ADMIN"},
		{unix.EMFILE, true, 0, "too many files", "LimitNOFILE"},
		{unix.ENFILE, true, 0, "too many files", "fs.file-max"},
		{unix.ENOMEM, true, 0, "no memory", "memory limit"},
		{unix.EINVAL, true, 0, "no code at this place", "reinstall"},
		{unix.Errno(524), true, 0, "step over", "another build"},
		{unix.EIO, false, 0, "file system", "local file system"},
		{os.ErrNotExist, true, 7, "process 7 is gone", "nothing"},
		{unix.ESRCH, false, 7, "process 7 is gone", "nothing"},
		{unix.ENOENT, true, 0, "/proc/self/fd", "mount procfs"},
		{unix.ELOOP, true, 0, "too many levels of symbolic links", "restart"},
	} {
		wrapped := fmt.Errorf("create link:\n%w (invalid pid?)", tc.err)
		err := attempt{"attach SSL_read to /lib/x", tc.multi, tc.only}.refused(wrapped)
		text := err.Error()
		if !errors.Is(err, tc.err) || !strings.HasPrefix(text, "attach SSL_read to /lib/x: ") ||
			!strings.Contains(text, tc.why) || !strings.Contains(text, tc.remedy) {
			t.Errorf("%v: %q, want it to say %q and %q", tc.err, text, tc.why, tc.remedy)
		}
		if strings.ContainsAny(text, "\n(") {
			t.Errorf("%v: %q carries what the libraries below say", tc.err, text)
		}
	}
	if text := target.OneLine("read /tmp/a\nb\x1b[2J: no"); text != "read /tmp/a; b?[2J: no" {
		t.Errorf("a path of somebody's choosing: %q", text)
	}
}
