package journal

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const fullDir = "SPILE_TEST_FULL_DIR"

// TestAFullDiskIsToldAndOutlived needs a small disk: a tmpfs in a mount namespace of a child, so that it cannot outlive us.
func TestAFullDiskIsToldAndOutlived(t *testing.T) {
	if dir := os.Getenv(fullDir); dir != "" {
		onSmallDisk(t, dir)
		return
	}
	if os.Getuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	child := exec.Command(os.Args[0], "-test.run=^TestAFullDiskIsToldAndOutlived$", "-test.v")
	child.Env = append(os.Environ(), fullDir+"="+t.TempDir())
	child.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func onSmallDisk(t *testing.T, dir string) {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 12<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "journal")
	j, err := Open(t.Context(), Config{Dir: store, MaxBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	r := commit(t, j, 0, 0, "m1", "ep.1", "before")
	acked := uint64(0)
	for ; ; acked++ {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		err = j.Append(ctx, 0, record("n1", acked+1, string(make([]byte, 200_000))))
		cancel()
		if err != nil {
			break
		}
		if acked > 200 {
			t.Fatal("a disk of 24 MB took 40 MB")
		}
	}
	if !errors.Is(err, ErrFull) {
		t.Errorf("append to a full disk: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	if _, err := j.Commit(ctx, 0, r, []Entry{{"ep.1", make([]byte, 2<<20)}, {"ep.2", []byte("half")}}, []byte("m2")); !errors.Is(err, ErrFull) {
		t.Errorf("commit to a full disk: %v", err)
	}
	cancel()
	if err := j.Append(t.Context(), 0, record("n1", acked+1, "x")); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "free some on the disk of "+store) {
		t.Errorf("the next append: %v", err)
	}

	// Freed, it goes on by itself; a reader that was waiting goes on too.
	got := make(chan uint64, 1000)
	reading, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		// Begun before there is room, it may be refused; whoever reads begins again.
		for reading.Err() == nil {
			_ = j.Read(reading, 0, 0, func(_ uint64, r Record) error { got <- r.Seq; return nil })
			time.Sleep(50 * time.Millisecond)
		}
	}()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		err := j.Append(ctx, 0, record("n1", acked+2, "again"))
		cancel()
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("append after space was freed: %v", err)
		}
	}
	for seq := uint64(0); seq != acked+2; {
		select {
		case seq = <-got:
		case <-time.After(time.Minute):
			t.Fatal("the reader did not go on")
		}
	}
	if s := load(t, j, 0); text(s) != "m1 map[ep.1:before]" {
		t.Errorf("state after healing: %.200s", text(s))
	}
	stop()
	j.Close()

	// So it is after a restart, and all that was acknowledged is there.
	j, err = Open(t.Context(), Config{Dir: store, MaxBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if s := load(t, j, 0); text(s) != "m1 map[ep.1:before]" {
		t.Errorf("state after a full disk: %.200s", text(s))
	}
	seen := uint64(0)
	if err := j.Scan(t.Context(), time.Time{}, false, func(_ int, _ uint64, r Record) error {
		if r.Seq <= acked {
			seen++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if seen != acked {
		t.Errorf("%d records of %d acknowledged", seen, acked)
	}
	append1(t, j, 0, record("n1", acked+3, "more"))
	commit(t, j, 0, load(t, j, 0).Revision, "m2", "ep.1", "after")
}
