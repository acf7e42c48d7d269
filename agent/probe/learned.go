package probe

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spile/spile/agent/target"
)

// LearnedFile is where it is kept what was learned of builds.
const LearnedFile = "probes.json"

// verdict says what live calls have shown of an inner place.
type verdict string

const (
	undecided verdict = ""
	agreed    verdict = "agreed"    // it saw what the function's entry saw: probes go there
	disagreed verdict = "disagreed" // it saw another call at least once: it is never used
)

// maxLearned bounds how many builds are remembered; those that were not seen for longest go.
const maxLearned = 4096

// build names one build of a library, wherever a copy of it lies: its build id. Where it has none, or others than root may
// write into the file and so choose which it has, it names the file: what is learned of it must not be held against, or in
// favour of, the library whose build id it may bear.
type build struct {
	id   string // "" = the file
	file target.Identity
	stat target.Stamp
}

func buildOf(f target.File, o owner) build {
	if f.ID.BuildID != "" && o.trusted {
		return build{id: f.ID.BuildID}
	}
	return build{file: f.ID, stat: target.Stamp{Size: f.Stamp.Size, Modified: f.Stamp.Modified}}
}

// name is the build id, or DEVICE:INODE of the file.
func (b build) name() string {
	if b.id != "" {
		return b.id
	}
	return fmt.Sprintf("%d:%d", b.file.Dev, b.file.Ino)
}

// learned remembers what was learned of builds: that they survived being probed, and which inner places agree. What is
// known by its file is remembered for as long as the agent runs.
type learned struct {
	path string // "" = in memory only
	log  *slog.Logger
	now  func() time.Time

	mu     sync.Mutex
	builds map[build]*lesson
	saving sync.Mutex // held while the file is written, which may take long; taken before mu
}

// lesson is what is known of one build.
type lesson struct {
	BuildID  string             `json:"build_id"`
	Survived bool               `json:"survived,omitempty"`
	Inner    map[string]verdict `json:"inner,omitempty"` // by place
	Seen     time.Time          `json:"seen"`
}

// lessons is the file.
type lessons struct {
	Builds []lesson `json:"builds"`
}

func newLearned(dir string, log *slog.Logger) *learned {
	l := &learned{log: log, now: time.Now, builds: map[build]*lesson{}}
	if dir == "" {
		return l
	}
	l.path = filepath.Join(dir, LearnedFile)
	var kept lessons
	switch err := load(l.path, &kept); {
	case errors.Is(err, errNothingKept):
	case err != nil:
		log.Warn("what was learned of libraries is lost, and is learned again", "reason", err)
	}
	for _, b := range kept.Builds {
		if b.BuildID != "" && len(l.builds) < maxLearned {
			l.builds[build{id: b.BuildID}] = &b
		}
	}
	return l
}

// placeKey names an inner place and what goes there: another version of the agent may choose otherwise.
func placeKey(p *target.Place) string { return fmt.Sprintf("%#x %s %s", p.Offset, p.Enter, p.Exit) }

func (l *learned) inner(b build, p *target.Place) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known := l.builds[b]; known != nil {
		return known.Inner[placeKey(p)]
	}
	return undecided
}

func (l *learned) survived(b build) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.builds[b]
	return known != nil && known.Survived
}

// decide remembers a verdict about an inner place. One that disagreed stays so.
func (l *learned) decide(b build, p *target.Place, v verdict) {
	l.learn(b, func(known *lesson) bool {
		key := placeKey(p)
		if old := known.Inner[key]; old == v || old == disagreed {
			return false
		}
		if known.Inner == nil {
			known.Inner = map[string]verdict{}
		}
		known.Inner[key] = v
		return true
	})
}

// harmless remembers that a build survived; harmful forgets it.
func (l *learned) harmless(b build) { l.setSurvived(b, true) }
func (l *learned) harmful(b build)  { l.setSurvived(b, false) }

func (l *learned) setSurvived(b build, yes bool) {
	l.learn(b, func(known *lesson) bool {
		changed := known.Survived != yes
		known.Survived = yes
		return changed
	})
}

// learn changes what is known of a build, and keeps it where that changed something.
func (l *learned) learn(b build, change func(*lesson) bool) {
	l.mu.Lock()
	known := l.builds[b]
	if known == nil {
		l.forgetOldest()
		known = &lesson{BuildID: b.id}
		l.builds[b] = known
	}
	known.Seen = l.now().UTC().Truncate(time.Second)
	changed := change(known)
	l.mu.Unlock()
	if !changed || b.id == "" || l.path == "" {
		return
	}
	l.saving.Lock()
	defer l.saving.Unlock()
	if err := save(l.path, l.all()); err != nil {
		l.log.Warn("what was learned of a library is forgotten when the agent ends", "reason", err)
	}
}

// all is what is kept.
func (l *learned) all() lessons {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := lessons{Builds: []lesson{}}
	for of, one := range l.builds {
		if of.id != "" {
			one := *one
			one.Inner = maps.Clone(one.Inner)
			all.Builds = append(all.Builds, one)
		}
	}
	slices.SortFunc(all.Builds, func(a, b lesson) int { return cmp.Compare(a.BuildID, b.BuildID) })
	return all
}

func (l *learned) forgetOldest() {
	if len(l.builds) < maxLearned {
		return
	}
	var oldest build
	var when time.Time
	for b, known := range l.builds {
		if when.IsZero() || known.Seen.Before(when) {
			oldest, when = b, known.Seen
		}
	}
	delete(l.builds, oldest)
}
