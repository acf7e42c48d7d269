package probe

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
)

func TestPlacements(t *testing.T) {
	got := placements([]target.Site{
		{Symbol: "SSL_accept", Offset: 1, Enter: "h_enter", Exit: "h_exit"},
		{Symbol: "SSL_connect", Offset: 2, Enter: "h_enter", Exit: "h_exit"},
		{Symbol: "SSL_alias", Offset: 2, Enter: "h_enter", Exit: "h_exit"},
		{Symbol: "SSL_free", Offset: 3, Enter: "f_enter"},
	})
	want := []placement{
		{program: "h_exit", atExit: true, symbols: []string{"SSL_accept", "SSL_connect"}, offsets: []uint64{1, 2}},
		{program: "h_enter", symbols: []string{"SSL_accept", "SSL_connect"}, offsets: []uint64{1, 2}},
		{program: "f_enter", symbols: []string{"SSL_free"}, offsets: []uint64{3}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestExplainNamesTheRemedy(t *testing.T) {
	for _, tc := range []struct {
		err    error
		multi  bool
		remedy string
	}{
		{unix.EPERM, true, "CAP_BPF and CAP_PERFMON"},
		{unix.EACCES, false, "CAP_SYS_ADMIN"},
		{unix.EMFILE, true, "LimitNOFILE"},
		{unix.ENOMEM, true, "memory limit"},
		{unix.EINVAL, true, "does not accept this place"},
	} {
		err := explain(tc.err, tc.multi)
		if !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.remedy) {
			t.Errorf("%v: %v, want it to say %q", tc.err, err, tc.remedy)
		}
	}
	if other := errors.New("x"); explain(other, true) != other {
		t.Error("an error that nobody knows was changed")
	}
}
