package target

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spile/spile/bpf"
)

// put writes a file in place, and sets its time.
func put(t *testing.T, path string, text []byte, modified time.Time) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, modified, modified); err != nil {
		t.Fatal(err)
	}
}

func TestStill(t *testing.T) {
	path := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := append(make([]byte, 4096), text[:len(text)-4096]...)
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	lib := Libraries()[0]
	for _, c := range []struct {
		name string
		wait time.Duration // between writing and describing
		do   func()
		want error
	}{
		{"nothing", 2 * clockStep, func() {}, nil},
		{"nothing, and just written", 0, func() {}, nil},
		{"another link", 2 * clockStep, func() { os.Link(path, path+".link") }, nil},
		{"the same bytes, and the time set back", 2 * clockStep, func() { put(t, path, text, noon) }, nil},
		{"other bytes", 2 * clockStep, func() { put(t, path, other, noon.Add(time.Second)) }, ErrWritten},
		{"other bytes, and the time set back", 2 * clockStep, func() { put(t, path, other, noon) }, ErrWritten},
		{"other bytes, and the time set back, all at once", 0, func() { put(t, path, other, noon) }, ErrWritten},
		{"shorter", 2 * clockStep, func() { put(t, path, text[:4096], noon) }, ErrWritten},
	} {
		put(t, path, text, noon)
		time.Sleep(c.wait)
		handle := open(t, path)
		f := Describe(NewCache(slow()), lib, path, handle)
		if f.Problem != nil {
			t.Fatal(f.Problem)
		}
		c.do()
		if _, err := f.Still(handle); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestAgain(t *testing.T) {
	path := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := Describe(NewCache(slow()), Libraries()[0], path, open(t, path))
	f.Only = 7
	put(t, path, text, time.Now().Add(time.Hour))
	g, err := f.Again()
	if err != nil || g.Only != 7 || g.ID != f.ID || g.Handle != f.Handle || g.Stamp == f.Stamp {
		t.Errorf("the same bytes: %v, %+v", err, g)
	}
	put(t, path, make([]byte, len(text)), time.Now())
	if _, err := f.Again(); !errors.Is(err, ErrWritten) {
		t.Errorf("other bytes: %v", err)
	}
}

func TestWhatWasWrittenAMomentAgoIsNotRemembered(t *testing.T) {
	path := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	cache := NewCache(slow())
	put(t, path, []byte("no library"), time.Now())
	Describe(cache, Libraries()[0], path, open(t, path))
	if len(cache.entries) != 0 {
		t.Error("it is remembered at once")
	}
	time.Sleep(2 * clockStep)
	Describe(cache, Libraries()[0], path, open(t, path))
	if len(cache.entries) != 1 {
		t.Errorf("%d are remembered", len(cache.entries))
	}
}

// yielding is a Sink whose probes made way for a writer.
type yielding struct {
	*ledger
	used          int
	probed, again bool
}

func (y *yielding) Use(p Process, f File) bool {
	y.used++
	return y.ledger.Use(p, f) && y.probed
}

func (y *yielding) Stands(Identity, uint32) (probed, again bool) { return y.probed, y.again }

func TestWhatMadeWayIsHandedOnAgain(t *testing.T) {
	proc := newFakeProc(t, 79)
	path := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	y := &yielding{ledger: newLedger(), probed: true}
	w := watch(t, y.ledger, &verdicts{})
	w.config.Sink, w.config.Proc = y, filepath.Dir(proc.dir)
	proc.write(t, 100, path)
	look := func(when string, probed, again bool, want int) {
		t.Helper()
		y.probed, y.again = probed, again
		w.look(79, false, bpf.FileID{})
		if y.used != want {
			t.Errorf("%s: handed on %d times, want %d", when, y.used, want)
		}
	}
	look("at first", true, false, 1)
	look("probed", true, false, 1)
	look("while it is being written", false, false, 2)
	look("and still", false, false, 2)
	look("when it is worth trying", false, true, 3)
	look("when it is probed again", true, true, 3)
	if f, users := y.at(path); users != 1 || w.uses[f.ID] != 1 {
		t.Errorf("%d users, counted %d", users, w.uses[f.ID])
	}
}
