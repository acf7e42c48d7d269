package probe

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spile/spile/agent/target"
)

// DeniedFile is the list of builds that are not probed, for people to read and to edit.
const DeniedFile = "denied.json"

// Denial is one build that is not probed because of what it did, or one file alone.
type Denial struct {
	BuildID  string    `json:"build_id,omitempty"`
	File     *OneFile  `json:"file,omitempty"` // nil = the build, wherever a copy of it lies
	Library  string    `json:"library"`
	Path     string    `json:"path"`
	Why      string    `json:"why"`
	Evidence string    `json:"evidence,omitempty"`
	When     time.Time `json:"when"`
}

// OneFile names a file by its inode, with what changes when somebody writes into it.
type OneFile struct {
	Device   uint64 `json:"device"` // as stat(2) shows it, major<<20 | minor; 0 on an overlay
	Inode    uint64 `json:"inode"`
	Born     int64  `json:"born,omitempty"` // nanoseconds since 1970
	Size     uint64 `json:"size"`
	Modified int64  `json:"modified"` // nanoseconds since 1970
}

// Name is what `spile-agent allow` takes: the build id, or DEVICE:INODE of a file that is denied alone.
func (x Denial) Name() string { return x.build().name() }

// Reason says why, and for how much of what it names.
func (x Denial) Reason() string {
	if x.File != nil && x.BuildID != "" {
		return x.Why + "; this file alone, since others than root may write into it and choose its build id"
	}
	return x.Why
}

func (x Denial) build() build {
	if x.File == nil {
		return build{id: x.BuildID}
	}
	return build{
		file: target.Identity{Dev: x.File.Device, Ino: x.File.Inode, Born: x.File.Born, BuildID: x.BuildID},
		stat: target.Stamp{Size: x.File.Size, Modified: x.File.Modified},
	}
}

// denialOf begins a Denial.
func denialOf(b build) Denial {
	if b.id != "" {
		return Denial{BuildID: b.id}
	}
	return Denial{BuildID: b.file.BuildID, File: &OneFile{Device: b.file.Dev, Inode: b.file.Ino, Born: b.file.Born, Size: b.stat.Size, Modified: b.stat.Modified}}
}

// denials is the file.
type denials struct {
	Denied []Denial `json:"denied"`
}

// maxDenied bounds the list; a newer denial takes the place of the oldest, which is logged.
const maxDenied = 1024

// denied is the list of builds that are not probed. The file wins over memory: a line that a person removed is gone.
type denied struct {
	path string // "" = in memory only
	log  *slog.Logger

	mu      sync.Mutex
	builds  map[build]Denial
	unsaved map[build]bool // in memory, and not in the file so far

	filing  sync.Mutex // held while the file is read or written, which may take long; taken before mu
	version fileVersion
	faulty  bool // the file cannot be read, and that was said
}

// fileVersion tells whether somebody replaced or changed the file.
type fileVersion struct {
	ino     uint64
	size    int64
	changed unix.Timespec
}

// newDenied reads the list. A list that cannot be read is an error: taken for empty, it would let probes back into
// programs that crashed of them.
func newDenied(dir string, log *slog.Logger) (*denied, error) {
	d := &denied{log: log, builds: map[build]Denial{}, unsaved: map[build]bool{}}
	if dir == "" {
		return d, nil
	}
	d.path = filepath.Join(dir, DeniedFile)
	if _, err := d.read(); err != nil {
		return nil, fmt.Errorf("%w; it lists builds that must not be probed: correct it, or remove it to allow all", err)
	}
	return d, nil
}

// why says why a build is denied, "" where it is not. A file that is known by itself is denied with its build id, too.
func (d *denied) why(b build) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	known, ok := d.builds[b]
	if !ok && b.file.BuildID != "" {
		known, ok = d.builds[build{id: b.file.BuildID}]
	}
	if !ok {
		return ""
	}
	why := known.Reason() + "; spile-agent allow " + known.Name()
	if d.path != "" {
		why += " --data " + filepath.Dir(d.path)
	}
	return why + " lets probes in again"
}

// covers reports whether what is denied of one build holds for another.
func (b build) covers(other build) bool {
	return b == other || b.id != "" && other.file.BuildID == b.id
}

// deny denies a build in memory, which takes no time. keep writes it down.
func (d *denied) deny(b build, why Denial) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.builds[b] = why
	d.unsaved[b] = true
	if len(d.builds) > maxDenied {
		d.forgetOldest(b)
	}
}

// keep writes a denial into the file. Where that fails it is in force for as long as the agent runs.
func (d *denied) keep(b build, why Denial) error {
	if d.path == "" {
		return nil
	}
	d.filing.Lock()
	defer d.filing.Unlock()
	err := edit(d.path, func(list []Denial) []Denial {
		list = slices.DeleteFunc(list, func(x Denial) bool { return x.build() == b })
		list = append(list, why)
		return list[max(0, len(list)-maxDenied):]
	})
	if err == nil {
		d.mu.Lock()
		delete(d.unsaved, b)
		d.mu.Unlock()
	}
	return err
}

func (d *denied) forgetOldest(except build) {
	var oldest build
	var when time.Time
	for b, x := range d.builds {
		if b != except && (when.IsZero() || x.When.Before(when)) {
			oldest, when = b, x.When
		}
	}
	d.log.Warn("the list of denied builds is full: the oldest may be probed again", "build", oldest.name(), "path", d.builds[oldest].Path)
	delete(d.builds, oldest)
	delete(d.unsaved, oldest)
}

// refresh takes over what a person changed in the file, and reports whether there was something.
func (d *denied) refresh() bool {
	if d.path == "" {
		return false
	}
	d.filing.Lock()
	defer d.filing.Unlock()
	changed, err := d.read()
	if err != nil && !d.faulty {
		d.log.Error("the list of denied builds cannot be read: what it said before stays in force", "reason", err)
	}
	d.faulty = err != nil
	return changed
}

// read takes the list from the file, if that is another one than it was. The caller holds filing, or is the only one.
func (d *denied) read() (changed bool, err error) {
	var now fileVersion
	var st unix.Stat_t
	if err := unix.Stat(d.path, &st); err == nil {
		now = fileVersion{st.Ino, st.Size, st.Ctim}
	}
	if now == d.version {
		return false, nil
	}
	var kept denials
	if err := load(d.path, &kept); err != nil && !errors.Is(err, errNothingKept) {
		return false, err
	}
	if slices.ContainsFunc(kept.Denied, func(x Denial) bool { return x.BuildID == "" && x.File == nil }) {
		return false, fmt.Errorf("read %s: an entry has neither build_id nor file", d.path)
	}
	d.version = now
	d.mu.Lock()
	defer d.mu.Unlock()
	for b := range d.builds {
		if !d.unsaved[b] {
			delete(d.builds, b)
		}
	}
	for _, x := range kept.Denied[max(0, len(kept.Denied)-maxDenied):] {
		d.builds[x.build()] = x
	}
	return true, nil
}

// Denials lists the builds that are denied, the latest first.
func Denials(dir string) ([]Denial, error) {
	var kept denials
	if err := load(filepath.Join(dir, DeniedFile), &kept); err != nil && !errors.Is(err, errNothingKept) {
		return nil, err
	}
	slices.SortStableFunc(kept.Denied, func(a, b Denial) int { return b.When.Compare(a.When) })
	return kept.Denied, nil
}

// Allow takes what has a name off the list (a build id, with the files that are denied alone and have it, or Denial.Name),
// "" = all, and returns what was on it. An agent that runs takes it over within a second.
func Allow(dir, name string) (allowed []Denial, err error) {
	path := filepath.Join(dir, DeniedFile)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	err = edit(path, func(list []Denial) []Denial {
		return slices.DeleteFunc(list, func(x Denial) bool {
			off := name == "" || x.BuildID == name || x.Name() == name
			if off {
				allowed = append(allowed, x)
			}
			return off
		})
	})
	return allowed, err
}

// edit changes the list in the file. The agent and a person's command may do that at one time, so they take turns.
func edit(path string, change func([]Denial) []Denial) error {
	turn, err := os.OpenFile(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer turn.Close()
	if err := unix.Flock(int(turn.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	var kept denials
	if err := load(path, &kept); err != nil && !errors.Is(err, errNothingKept) {
		return err
	}
	kept.Denied = change(kept.Denied)
	slices.SortStableFunc(kept.Denied, func(a, b Denial) int { return cmp.Or(a.When.Compare(b.When), cmp.Compare(a.Name(), b.Name())) })
	return save(path, kept)
}
