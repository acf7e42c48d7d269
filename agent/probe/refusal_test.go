package probe

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
)

// TestTheKernelRefusesAnAgentWithoutRights attaches on a thread that has given up what probes need.
func TestTheKernelRefusesAnAgentWithoutRights(t *testing.T) {
	for _, multi := range []bool{true, false} {
		programs := newCounting(t, multi)
		f := described(t, library(t, t.TempDir()))
		failed := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			failed <- func() error {
				head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				var none [2]unix.CapUserData
				if err := unix.Capset(&head, &none[0]); err != nil {
					return err
				}
				pl := placer{programs: programs}
				parts, err := pl.put(f, plan(f.Sites, neverInside), 0)
				pl.remove(parts)
				return err
			}()
		}()
		err := <-failed
		if err == nil && multi {
			continue // with kernel.unprivileged_bpf_disabled=0, loading is the only thing that needs a right
		}
		if err == nil || !errors.Is(err, fs.ErrPermission) {
			t.Fatalf("multi=%v: %v", multi, err)
		}
		for _, want := range []string{"attach SSL_read to " + f.Path + ": ", "does not let this agent set probes; ", "CAP_"} {
			if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "permitted") || strings.Contains(err.Error(), "denied") {
				t.Errorf("multi=%v: %q, want it to say %q and no errno", multi, err, want)
			}
		}
	}
}

// TestTooManyOpenFilesPasses runs out of descriptors, and is helped.
func TestTooManyOpenFilesPasses(t *testing.T) {
	programs := newCounting(t, true)
	path := library(t, t.TempDir())
	c := newCaller(t, path)
	f := described(t, path)
	r := registry(t, programs, DefaultTimes())
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	top, err := os.Open("/dev/null") // the lowest descriptor that is free
	if err != nil {
		t.Fatal(err)
	}
	short := limit
	short.Cur = uint64(top.Fd()) + 2
	top.Close()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &short); err != nil {
		t.Fatal(err)
	}
	probed := r.Use(c.process(), f)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	s := one(t, r)
	if probed || s.Phase != Failed || !strings.Contains(s.Reason, "too many files open; raise its LimitNOFILE") {
		t.Fatalf("%v, %+v", probed, s)
	}
	if r.Use(c.process(), f) {
		t.Error("tried again at once")
	}
	at(r, time.Now().Add(DefaultTimes().Retry))
	if !r.Use(c.process(), f) {
		t.Errorf("not tried again: %+v", one(t, r))
	}
	c.call(t, 3)
	if n := programs.hits(t, freed); n != 3 || one(t, r).Reason != "" {
		t.Errorf("%d hits of 3 calls, %+v", n, one(t, r))
	}
	r.Drop(target.Process{PID: c.process().PID, Start: 1}, f.ID)
}
