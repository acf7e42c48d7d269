package vmtest

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

//go:embed guest.sh
var guestInit []byte

//go:embed guest-run.sh
var guestRun []byte

//go:embed guest-tests.sh
var guestTests []byte

// A boot takes 1 to 5 minutes here, most of it the verifier's work under emulation.
const bootLimit = 12 * time.Minute

// logs gets the console of each guest while it runs.
const logs = "../../bin/vmtest"

// hooks are the rungs that a kernel must have; a rung that it has and that fails is a failure, not a skip.
type hooks struct{ sockets, uprobes []string } // best first

// offers knows kernels by their version, so that what Spile finds out by asking is held against something else.
func offers(series string) hooks {
	h := hooks{sockets: []string{"fexit", "kprobe", "syscall"}, uprobes: []string{"perf"}}
	if compare(series, "6.3") >= 0 { // tracepoints sock_send_length and sock_recv_length
		h.sockets = append([]string{"tp_btf"}, h.sockets...)
	}
	if compare(series, "6.6") >= 0 {
		h.uprobes = append([]string{"uprobe_multi"}, h.uprobes...)
	}
	return h
}

// mustPass are the tests of package bpf that have to pass in the guest.
func (h hooks) mustPass() []string {
	all := []string{"TestVerifierCounts"}
	for _, socket := range h.sockets {
		all = append(all, "TestEveryHook/"+socket)
	}
	if len(h.uprobes) > 1 {
		all = append(all, "TestEveryHook/perf")
	}
	return all
}

// row is a line of the table at the end.
type row struct {
	series, version   string
	programs, product time.Duration
	failed            bool
}

// TestKernels boots each kernel of SPILE_VM_KERNELS twice: every object, program and rung with the tests of package bpf, then the
// product from end to end.
func TestKernels(t *testing.T) {
	list := strings.Fields(os.Getenv("SPILE_VM_KERNELS"))
	if len(list) == 0 {
		t.Skip("boots whole kernels under emulation: run by `make vmtest`")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	archive, err := OpenArchive(filepath.Join(cache, "spile-kernels"), "/etc/apt", t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	qemu, err := archive.Emulator(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("emulator: %s", qemu)
	programs, product := programsImage(t), productImage(t)
	var rows []row
	var counted []string
	for _, series := range list {
		r := row{series: series}
		r.failed = !t.Run(series, func(t *testing.T) {
			k, err := archive.Kernel(t.Context(), series)
			if err != nil {
				t.Fatal(err)
			}
			r.version = k.Version
			t.Run("programs", func(t *testing.T) {
				res := boot(t, Boot{Emulator: qemu, Kernel: k, Initramfs: programs})
				r.programs = res.Took
				checkPrograms(t, res, offers(k.Series))
				counted = append(counted, verified(res.Console)...)
			})
			t.Run("product", func(t *testing.T) {
				res := boot(t, Boot{Emulator: qemu, Kernel: k, Initramfs: product})
				r.product = res.Took
				checkProduct(t, res, offers(k.Series))
			})
		})
		rows = append(rows, r)
	}
	if os.Getenv("SPILE_VM_RECORD") != "" {
		record(t, counted)
	}
	report(rows, qemu)
}

// boot runs a guest, and once more when the emulator may be to blame. The first try is never hidden.
func boot(t *testing.T, b Boot) Result {
	t.Helper()
	b.MemoryMiB, b.Limit = 1536, bootLimit
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	b.Log = filepath.Join(logs, strings.ReplaceAll(strings.TrimPrefix(t.Name(), "TestKernels/"), "/", "-")+".log")
	res, err := b.Run(t.Context())
	if err != nil && res.Emulated(err) {
		t.Logf("retry 1 of 1 after emulator panic: %v\n%s", err, tail(res.Console))
		b.Log += ".retry"
		res, err = b.Run(t.Context())
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(res.Console))
	}
	t.Logf("kernel %s: %s", b.Kernel.Version, res.Took.Round(time.Second))
	return res
}

func report(rows []row, qemu Emulator) {
	failed := 0
	fmt.Printf("\n%-8s %-34s %10s %10s  on %s\n", "kernel", "version", "programs", "product", qemu)
	for _, r := range rows {
		result := "passed"
		if r.failed {
			result = "FAILED"
			failed++
		}
		fmt.Printf("%-8s %-34s %10s %10s  %s\n", r.series, r.version, r.programs.Round(time.Second), r.product.Round(time.Second), result)
	}
	fmt.Printf("%d passed, %d failed\n\n", len(rows)-failed, failed)
}

func checkPrograms(t *testing.T, res Result, h hooks) {
	t.Helper()
	for _, name := range h.mustPass() {
		if !strings.Contains(res.Console, "--- PASS: "+name+" (") {
			t.Errorf("%s did not pass", name)
		}
	}
	if res.RC != 0 {
		t.Errorf("the tests ended with status %d", res.RC)
	}
	if len(verified(res.Console)) == 0 {
		t.Error("no verifier counts were printed")
	}
	if t.Failed() {
		t.Log(tail(res.Console))
		return
	}
	for line := range strings.Lines(res.Console) {
		if strings.Contains(line, "verifier_test.go:") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// rootfs has what both guests need.
func rootfs(t *testing.T, run []byte) *Initramfs {
	t.Helper()
	root := NewInitramfs()
	for _, dir := range []string{"/proc", "/sys", "/dev", "/tmp", "/run", "/data", "/www"} {
		root.Dir(dir)
	}
	add(t, root, "/bin/busybox", "/bin/busybox")
	root.Link("/bin/sh", "busybox")
	for _, program := range []string{"openssl", "curl"} {
		if err := root.Program(program); err != nil {
			t.Fatal(err)
		}
	}
	root.Add("/init", guestInit)
	root.Add("/guest-run.sh", run)
	return root
}

func add(t *testing.T, root *Initramfs, name, from string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatalf("%v: run `make build` and deploy/packages.sh vm first", err)
	}
	root.Add(name, data)
}

func pack(t *testing.T, root *Initramfs) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "initramfs.gz")
	if err := root.Write(image); err != nil {
		t.Fatal(err)
	}
	return image
}

func programsImage(t *testing.T) string {
	t.Helper()
	tests := filepath.Join(t.TempDir(), "bpf.test")
	build := exec.Command("go", "test", "-c", "-o", tests, "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	script := guestTests
	if os.Getenv("SPILE_VM_RECORD") != "" {
		script = slices.Concat([]byte("export SPILE_TEST_RECORD=1\n"), script)
	}
	root := rootfs(t, script)
	add(t, root, "/bin/bpf.test", tests)
	return pack(t, root)
}

func tail(s string) string { return s[max(0, len(s)-8000):] }

func TestOnlyTheEmulatorsFaultsAreTriedAgain(t *testing.T) {
	noVerdict, panicked := fmt.Errorf("boot: %w", ErrNoVerdict), fmt.Errorf("boot: %w", ErrPanic)
	for _, c := range []struct {
		console string
		err     error
		want    bool
	}{
		{"Kernel panic - not syncing: no init\n", panicked, true},
		{began + "\nOops: int3: 0000 [#1] SMP\nKernel panic - not syncing: Fatal exception\n", panicked, true},
		{began + "\nBUG: unable to handle page fault for address: 0\nKernel panic - not syncing: Fatal exception\n", panicked, false},
		{"", noVerdict, true},
		{began + "\n=== RUN   TestEveryHook\n", noVerdict, false},
		{began + "\n", errors.New("qemu is not there"), false},
	} {
		if got := (Result{Console: c.console}).Emulated(c.err); got != c.want {
			t.Errorf("%q, %v: %v, want %v", c.console, c.err, got, c.want)
		}
	}
}
