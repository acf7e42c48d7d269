package bpf

import (
	"errors"
	"os"
	"slices"
	"testing"
)

// The objects of sockets and of TLS are loaded side by side: a map of both that the programs of processes do not bring would be
// two maps.
func TestSharedMapsAreThoseOfProcesses(t *testing.T) {
	s, err := loadSpecs(Options{RingBytes: minRingBytes})
	if err != nil {
		t.Fatal(err)
	}
	shared := 0
	for name := range s.sock.Maps {
		if s.tls.Maps[name] == nil && s.gotls.Maps[name] == nil {
			continue
		}
		shared++
		if s.proc.Maps[name] == nil {
			t.Errorf("map %s is in the objects of sockets and of TLS, and not in that of processes", name)
		}
	}
	if shared < 10 {
		t.Errorf("only %d maps are shared: this test looks in the wrong place", shared)
	}
}

// What was loaded beside sockets that cannot be hooked goes with the rest.
func TestNothingStaysOfWhatWasLoadedBesideAFailure(t *testing.T) {
	requireKernel(t)
	before := descriptors(t)
	for range 3 {
		if _, err := Load(Options{SocketRung: "none", Select: Selector{Include: Rules{NetNS: []uint32{ownNetNS(t)}}}}); !errors.Is(err, ErrOption) {
			t.Fatalf("%v, want ErrOption", err)
		}
	}
	if after := descriptors(t); len(after) > len(before) {
		t.Errorf("descriptors of %v, before of %v", after, before)
	}
}

// descriptors are what this process has open of eBPF.
func descriptors(t testing.TB) (open []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && slices.Contains([]string{"anon_inode:bpf-prog", "anon_inode:bpf-map", "anon_inode:bpf_link"}, to) {
			open = append(open, to)
		}
	}
	return open
}
