package target

import (
	"runtime"
	"testing"
)

func TestPlaceSkipsEndbr(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("endbr64 is an instruction of amd64")
	}
	for flags, skip := range map[string]uint64{"full": 4, "none": 0} {
		// Frame pointers make every function begin with a push.
		path := compile(t, "-fcf-protection="+flags, "-fno-omit-frame-pointer", "-O0")
		f, err := InspectLibrary(open(t, path), []string{"SSL_read", "SSL_write"}, slow())
		if err != nil || len(f.Places) != 2 {
			t.Fatal(f, err)
		}
		for name, entry := range f.Functions {
			if f.Places[name].Offset != entry+skip {
				t.Errorf("-fcf-protection=%s: %s at %#x, entry %#x, want %d bytes behind it", flags, name, f.Places[name].Offset, entry, skip)
			}
		}
	}
	// Without a push behind it, the entry is as good as anything.
	path := compile(t, "-fcf-protection=full", "-fomit-frame-pointer", "-O2")
	f, err := InspectLibrary(open(t, path), []string{"SSL_write"}, slow())
	if err != nil || f.Places["SSL_write"].Offset != f.Functions["SSL_write"] {
		t.Errorf("%+v, %v", f, err)
	}
}
