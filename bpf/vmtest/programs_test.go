package vmtest

import (
	"context"
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

//go:embed guest-tests.sh
var guestTests []byte

// TestPrograms runs the tests of package bpf that need rungs which newer kernels do not take.
func TestPrograms(t *testing.T) {
	list := strings.Fields(os.Getenv("SPILE_VM_KERNELS"))
	if len(list) == 0 {
		t.Skip("boots whole kernels under emulation: run by `make vmtest`")
	}
	tests := filepath.Join(t.TempDir(), "bpf.test")
	build := exec.Command("go", "test", "-c", "-o", tests, "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	for _, series := range list {
		t.Run(series, func(t *testing.T) {
			k, err := Fetch(t.Context(), series, filepath.Join(cache, "spile-kernels"))
			if err != nil {
				t.Fatal(err)
			}
			root := NewInitramfs()
			for name, from := range map[string]string{"/bin/bpf.test": tests, "/bin/busybox": "/bin/busybox"} {
				data, err := os.ReadFile(from)
				if err != nil {
					t.Fatal(err)
				}
				root.Add(name, data)
			}
			root.Link("/bin/sh", "busybox")
			root.Add("/init", guestInit)
			root.Add("/guest-run.sh", guestTests)
			image := filepath.Join(t.TempDir(), "initramfs.gz")
			if err := root.Write(image); err != nil {
				t.Fatal(err)
			}
			res, err := Boot{Kernel: k, Initramfs: image, MemoryMiB: 1536, Limit: 9 * time.Minute}.Run(context.Background())
			if err != nil {
				t.Fatalf("%v\n%s", err, tail(res.Console))
			}
			if res.RC != 0 || !strings.Contains(res.Console, "--- PASS: TestBlockedReceivers/kprobe") {
				t.Errorf("status %d\n%s", res.RC, tail(res.Console))
			}
		})
	}
}
