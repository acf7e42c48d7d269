package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
)

// TestAContainerOverAFileThatIsMappedOutside has one program that maps the image's file itself, and one in a container.
func TestAContainerOverAFileThatIsMappedOutside(t *testing.T) {
	for _, first := range []string{"outside", "inside"} {
		t.Run(first+" first", func(t *testing.T) {
			programs := newCounting(t, true)
			base := t.TempDir()
			if err := unix.Mount("none", base, "tmpfs", 0, ""); err != nil {
				t.Skip(err)
			}
			t.Cleanup(func() { unix.Unmount(base, unix.MNT_DETACH) })
			for _, sub := range []string{"image", "upper", "work", "root"} {
				if err := os.Mkdir(filepath.Join(base, sub), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			outside := library(t, filepath.Join(base, "image"))
			options := fmt.Sprintf("lowerdir=%s/image,upperdir=%s/upper,workdir=%s/work", base, base, base)
			if err := unix.Mount("overlay", base+"/root", "overlay", 0, options); err != nil {
				t.Skip(err)
			}
			t.Cleanup(func() { unix.Unmount(base+"/root", unix.MNT_DETACH) })
			inside := filepath.Join(base, "root/libssl.so.3")
			paths := []string{outside, inside}
			if first == "inside" {
				paths = []string{inside, outside}
			}
			r := registry(t, programs, DefaultTimes())
			var callers []*caller
			var files []target.File
			for _, path := range paths {
				c, f := newCaller(t, path), described(t, path)
				if f.ID.Born == 0 {
					t.Skip("this kernel's tmpfs does not say when a file was born")
				}
				if !r.Use(c.process(), f) {
					t.Errorf("%+v", r.List())
				}
				callers, files = append(callers, c), append(files, f)
			}
			if files[0].ID == files[1].ID {
				t.Fatalf("%+v: the two names do not differ, and the test has lost its point", files[0].ID)
			}
			if s := one(t, r); s.Processes != 2 || s.Phase != Attached {
				t.Errorf("%+v", s)
			}
			callers[0].call(t, 7)
			callers[1].call(t, 5)
			if n := programs.hits(t, freed); n != 12 {
				t.Errorf("%d hits of 12 calls", n)
			}
			for i, f := range files {
				if known, attached, _ := r.State(f.ID, 0); !known || !attached {
					t.Errorf("%+v: known %v, attached %v", f.ID, known, attached)
				}
				r.Drop(callers[i].process(), f.ID)
			}
			if s := one(t, r); s.Phase != Draining || s.Processes != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// nobody has no programs.
type nobody struct{}

func (nobody) Program(string) *ebpf.Program { return nil }
func (nobody) UprobeMulti() bool            { return true }

func TestSnapshotsAreNotOneFile(t *testing.T) {
	r := registry(t, nobody{}, DefaultTimes())
	use := func(dev uint64) target.Identity {
		id := target.Identity{Dev: dev, Ino: 3, Born: 5, BuildID: "b"}
		r.Use(target.Process{PID: uint32(dev + 1)}, target.File{ID: id, Path: fmt.Sprint(dev), Problem: os.ErrInvalid})
		return id
	}
	use(0) // as an overlay shows it
	use(8) // its layer, by all that is known
	use(9) // a snapshot of the layer: another inode
	if n := len(r.List()); n != 2 {
		t.Errorf("%d files: %+v", n, r.List())
	}
	r.mu.Lock()
	for k := range r.files {
		r.remove(k)
	}
	if len(r.aliases) != 0 {
		t.Errorf("names are left of what is gone: %v", r.aliases)
	}
	r.mu.Unlock()
	use(8)
	use(9)
	use(0) // of which of the two?
	if n := len(r.List()); n != 3 {
		t.Errorf("%d files: %+v", n, r.List())
	}
}
