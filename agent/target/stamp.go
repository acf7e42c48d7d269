package target

import (
	"errors"
	"os"
	"reflect"
	"time"
)

// Stamp tells one content of a file from another without reading it.
type Stamp struct {
	Size     uint64
	Modified int64 // nanoseconds since 1970; whoever writes may set it back
	Changed  int64 // the same; nobody can set it, but a rename or a new link changes it as well
}

// SameContent reports whether nothing speaks for a write between the two.
func (s Stamp) SameContent(other Stamp) bool {
	return s.Size == other.Size && s.Modified == other.Modified
}

// StampOf reads the stamp of an open file.
func StampOf(f *os.File) (Stamp, error) {
	s, err := stampOf(f)
	return s.public(), err
}

func (s stamp) public() Stamp {
	return Stamp{Size: s.size, Modified: s.modified, Changed: s.changed}
}

// clockStep is longer than the clock of a file system stands still: one tick, 10 ms at most. From Linux 6.13 on, most
// file systems tell two writes apart anyhow.
const clockStep = 20 * time.Millisecond

// fresh reports whether the file changed so lately that another write may leave the very same stamp.
func (s stamp) fresh() bool {
	age := time.Since(time.Unix(0, s.changed))
	return age > -time.Second && age < clockStep
}

// origin is how a file came to its description, to describe it again.
type origin struct {
	fresh bool // the stamp alone proves nothing
	id    Identity
	sites []Site
	again func(handle *os.File) File
}

// describedBy remembers where the description comes from. s and fresh are of before the file was read.
func (f *File) describedBy(s stamp, fresh bool, again func(*os.File) File) {
	f.Stamp = s.public()
	f.origin = origin{fresh: fresh, id: f.ID, sites: append([]Site(nil), f.Sites...), again: again}
}

// ErrWritten says that a file is no longer what was described.
var ErrWritten = errors.New("it was written since it was read")

// Still returns ErrWritten unless the open file is what was described. Where nobody can write into it meanwhile, the
// answer is exact: the stamp is the same and old enough, or the file, read once more, has the same sites.
func (f File) Still(handle *os.File) (Stamp, error) {
	now, err := StampOf(handle)
	switch {
	case err != nil:
		return Stamp{}, err
	case f.origin.again == nil:
		return now, nil // the sites come from elsewhere than this file
	case !now.SameContent(f.Stamp):
		return now, ErrWritten
	case now.Changed == f.Stamp.Changed && !f.origin.fresh:
		return now, nil
	}
	if g := f.origin.again(handle); g.Problem != nil || g.ID.BuildID != f.origin.id.BuildID || !reflect.DeepEqual(g.Sites, f.origin.sites) {
		return now, ErrWritten
	}
	return now, nil
}

// Again describes the file anew by its Handle. It returns ErrWritten where that is not what it was.
func (f File) Again() (File, error) {
	if f.origin.again == nil {
		return f, nil
	}
	g := f.origin.again(f.Handle)
	if g.Problem != nil || g.ID != f.origin.id || !reflect.DeepEqual(g.Sites, f.origin.sites) {
		return f, ErrWritten
	}
	g.ID, g.Sites, g.Only, g.Path = f.ID, f.Sites, f.Only, f.Path
	return g, nil
}

// lapsed notes which files of a process are to be handed on again before their time, since somebody wrote into them.
func (w *Watcher) lapsed(p *watched) {
	over := func(h held) bool {
		if h.told.IsZero() {
			return false
		}
		probed, again := w.config.Sink.Stands(h.id, h.only)
		return !probed && (h.probed || again)
	}
	for as, h := range p.files {
		if over(h) {
			h.probed, h.lapsed = false, true
			p.files[as], p.space = h, nil
		}
	}
	if over(p.own) {
		p.own.probed, p.searched = false, false
	}
}

func (w *Watcher) stands(id Identity) bool {
	probed, _ := w.config.Sink.Stands(id, 0)
	return probed
}
