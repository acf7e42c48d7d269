package target

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/bpf"
)

// ledger is a Sink that writes down who uses what.
type ledger struct {
	mu    sync.Mutex
	files map[Identity]File
	users map[Identity]map[Process]bool
	first map[Identity]time.Time
}

func newLedger() *ledger {
	return &ledger{files: map[Identity]File{}, users: map[Identity]map[Process]bool{}, first: map[Identity]time.Time{}}
}

func (l *ledger) Use(p Process, f File) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.Problem == nil {
		if _, err := f.Handle.Stat(); err != nil {
			f.Problem = fmt.Errorf("the handle is closed: %w", err)
		}
	}
	if l.users[f.ID] == nil {
		l.users[f.ID], l.first[f.ID] = map[Process]bool{}, time.Now()
	}
	l.files[f.ID], l.users[f.ID][p] = f, true
	return f.Problem == nil
}

func (l *ledger) Stands(id Identity, _ uint32) (probed, again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.files[id]
	return ok && f.Problem == nil, false
}

func (l *ledger) Drop(p Process, id Identity) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.users[id], p)
}

// at finds the file of a path, and how many processes use it.
func (l *ledger) at(path string) (File, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, f := range l.files {
		if f.Path == path {
			return f, len(l.users[id])
		}
	}
	return File{}, 0
}

func (l *ledger) count(path string) int { _, n := l.at(path); return n }

// verdicts is the kernel's table, as far as this test goes.
type verdicts struct {
	mu   sync.Mutex
	told map[bpf.FileID]Verdict
	full bool
}

func (v *verdicts) set(id bpf.FileID, include, exclude bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.full {
		return errors.New("the table is full")
	}
	v.told[id] = Verdict{include, exclude}
	return nil
}

func (v *verdicts) of(path string, t *testing.T) (Verdict, bool) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	id, err := identify(path)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := v.told[id]
	return got, ok
}

func watch(t *testing.T, l *ledger, v *verdicts, targets ...string) *Watcher {
	t.Helper()
	return NewWatcher(Config{
		Proc: "/proc", Selection: mustSelect(t, targets...), Sink: l, Cache: NewCache(slow()), Libraries: Libraries(),
		SetExe: v.set, Reconcile: 50 * time.Millisecond,
	})
}

func start(t *testing.T, w *Watcher) {
	t.Helper()
	if err := w.Scan(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestWatcherFindsWhatRunsAndWhatComes(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	early := copyFile(t, systemLibrary(t), filepath.Join(dir, "early/libssl.so.3"))
	late := copyFile(t, systemLibrary(t), filepath.Join(dir, "late/libssl-3e69114b.so.1.1"))
	one, two := python(t, nil), python(t, nil)
	one.load(t, early)
	l := newLedger()
	w := watch(t, l, &verdicts{told: map[bpf.FileID]Verdict{}}, "netns=self")
	start(t, w)
	f, n := l.at(early) // SSL_write_ex2 is of OpenSSL 3.3
	if n != 1 || f.Problem != nil || len(f.Sites) < len(Libraries()[0].Functions)-1 || f.ID.BuildID == "" {
		t.Fatalf("after the first scan: %d users of %+v", n, f)
	}
	if _, own := l.at(systemLibrary(t)); own == 0 {
		t.Error("the library that this root's programs will map is not known")
	}
	two.load(t, late) // dlopen: no event at all
	eventually(t, "dlopen", func() bool { return l.count(late) == 1 })
	two.load(t, early)
	eventually(t, "a second user", func() bool { return l.count(early) == 2 })
	two.Process.Kill()
	two.Wait()
	eventually(t, "the end of the second user", func() bool { return l.count(early) == 1 && l.count(late) == 0 })
	var st unix.Stat_t
	unix.Stat(early, &st)
	if f.ID.Ino != st.Ino || f.ID.Dev != shownDevice(st.Dev) {
		t.Errorf("identity %+v of inode %d", f.ID, st.Ino)
	}
}

func TestWatcherFollowsEvents(t *testing.T) {
	needRoot(t)
	path := copyFile(t, systemLibrary(t), filepath.Join(t.TempDir(), "libssl.so.3"))
	l := newLedger()
	w := watch(t, l, &verdicts{told: map[bpf.FileID]Verdict{}}, "netns=self")
	w.config.Reconcile = time.Hour // only events
	start(t, w)
	c := python(t, nil)
	w.Exec(c.pid(), bpf.FileID{})
	c.load(t, path) // after the exec, as the dynamic linker does it
	began := time.Now()
	eventually(t, "exec", func() bool { return l.count(path) == 1 })
	if took := time.Since(began); took > 1500*time.Millisecond {
		t.Errorf("seen after %v", took)
	}
	key, _, err := readProcess("/proc", c.pid())
	if err != nil {
		t.Fatal(err)
	}
	w.Exit(c.pid(), time.Duration(key.Start+1)*tick) // somebody else, earlier, with this id
	time.Sleep(20 * time.Millisecond)
	if l.count(path) != 1 {
		t.Error("the exit of another process was taken for this one's")
	}
	c.Process.Signal(syscall.SIGKILL)
	c.Wait()
	w.Exit(c.pid(), time.Duration(key.Start)*tick+5*time.Millisecond)
	eventually(t, "exit", func() bool { return l.count(path) == 0 })
	if s := w.Stats(); s.Execs != 1 || s.ExecsDropped != 0 || s.Files == 0 || s.Scans == 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestWatcherSeesOnlyTheSelection(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	in, out := copyFile(t, systemLibrary(t), dir+"/in/libssl.so.3"), copyFile(t, systemLibrary(t), dir+"/out/libssl.so.3")
	inside := python(t, nil)
	outside := python(t, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET})
	inside.load(t, in)
	outside.load(t, out)
	for targets, want := range map[string][2]int{
		"netns=self":                         {1, 0},
		"!netns=self":                        {0, 1},
		fmt.Sprintf("pid=%d", inside.pid()):  {1, 0},
		fmt.Sprintf("!pid=%d", inside.pid()): {0, 1},
		fmt.Sprintf("pid=%d", os.Getpid()):   {1, 1},
		"exe=python3":                        {1, 1},
		"!exe=/usr/bin/python3":              {0, 0},
		"exe=nginx":                          {0, 0},
		"port=443":                           {1, 1},
		fmt.Sprintf("!pid=%d", os.Getpid()):  {0, 0},
	} {
		l := newLedger()
		w := watch(t, l, &verdicts{told: map[bpf.FileID]Verdict{}}, targets)
		if err := w.Scan(); err != nil {
			t.Fatal(err)
		}
		if got := [2]int{l.count(in), l.count(out)}; got != want {
			t.Errorf("%s: inside and outside %v, want %v", targets, got, want)
		}
	}
}

func TestWatcherJudgesExecutables(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	wanted := copyFile(t, "/bin/sleep", filepath.Join(dir, "wanted"))
	other := copyFile(t, "/bin/sleep", filepath.Join(dir, "other"))
	v := &verdicts{told: map[bpf.FileID]Verdict{}}
	w := watch(t, newLedger(), v, "exe="+wanted)
	start(t, w)
	if got, ok := v.of(wanted, t); !ok || got != (Verdict{Include: true}) {
		t.Errorf("installed before the start: %+v %v", got, ok)
	}
	later := copyFile(t, "/bin/sleep", filepath.Join(dir, "later"))
	if err := os.Rename(later, wanted); err != nil { // a new file by the name
		t.Fatal(err)
	}
	for _, program := range []string{wanted, other} {
		c := run(t, program, "60")
		w.Exec(uint32(c.Process.Pid), bpf.FileID{})
	}
	eventually(t, "the verdict on the new file", func() bool { got, _ := v.of(wanted, t); return got.Include })
	if got, ok := v.of(other, t); ok && got.Include {
		t.Errorf("another program: %+v", got)
	}
	// The same inode under a name that nobody asked for: the verdict is taken back.
	gone := filepath.Join(dir, "gone")
	if err := os.Rename(wanted, gone); err != nil {
		t.Fatal(err)
	}
	c := run(t, gone, "60")
	eventually(t, "exec", func() bool { _, _, exe, err := exeOf("/proc", uint32(c.Process.Pid)); return err == nil && exe == gone })
	w.Exec(uint32(c.Process.Pid), bpf.FileID{})
	eventually(t, "the verdict to be taken back", func() bool { got, ok := v.of(gone, t); return ok && !got.Include })
	wanted = gone
	// With exclusions alone, whoever is not judged is not watched: everybody must be.
	v = &verdicts{told: map[bpf.FileID]Verdict{}}
	if err := watch(t, newLedger(), v, "!exe=gone").Scan(); err != nil {
		t.Fatal(err)
	}
	if got, ok := v.of(other, t); !ok || got != (Verdict{}) {
		t.Errorf("not excluded: %+v %v", got, ok)
	}
	if got, ok := v.of(wanted, t); !ok || got != (Verdict{Exclude: true}) {
		t.Errorf("excluded: %+v %v", got, ok)
	}
	full := watch(t, newLedger(), &verdicts{full: true}, "!exe=wanted")
	if err := full.Scan(); err != nil || full.Stats().VerdictsLost == 0 {
		t.Errorf("a full table: %v, %+v", err, full.Stats())
	}
}

func TestWatcherReportsWhatItCannotRead(t *testing.T) {
	needRoot(t)
	fake := filepath.Join(t.TempDir(), "libssl.so.fake")
	copyFile(t, filepath.Join(filepath.Dir(systemLibrary(t)), "libcrypto.so.3"), fake)
	c := python(t, nil)
	c.load(t, fake)
	l := newLedger()
	w := watch(t, l, &verdicts{}, "netns=self")
	if err := w.Scan(); err != nil {
		t.Fatal(err)
	}
	if f, n := l.at(fake); n != 1 || f.Problem == nil || w.Stats().FilesFailed == 0 {
		t.Errorf("%d users of %+v", n, f)
	}
}

func TestQueueNeverWaits(t *testing.T) {
	w := watch(t, newLedger(), &verdicts{})
	for i := range uint32(eventQueue + 100) {
		w.Exec(i+1, bpf.FileID{})
	}
	if s := w.Stats(); s.ExecsDropped != 100 || s.Execs != eventQueue+100 {
		t.Errorf("stats %+v, want 100 dropped", s)
	}
	var a agenda
	now := time.Now()
	for i := range uint32(100_000) {
		a.add(i, now, retries(false))
	}
	if len(a.looks) > maxPlanned {
		t.Errorf("%d looks planned", len(a.looks))
	}
	if got := len(a.due(now.Add(5 * time.Millisecond))); got == 0 || got > crowded {
		t.Errorf("%d looks after 5 ms", got)
	}
	a.due(now.Add(time.Minute))
	if a.wait(now) < time.Minute {
		t.Error("an empty agenda is in a hurry")
	}
}
