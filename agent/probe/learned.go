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
	disagreed verdict = "disagreed" // it saw too many other calls: it is not used until it is tried again
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
	Silent   string             `json:"silent,omitempty"` // the path of a canary that ended without a call
	Inner    map[string]verdict `json:"inner,omitempty"`  // by place
	Doubts   map[string]doubt   `json:"doubts,omitempty"` // of places that disagreed
	Seen     time.Time          `json:"seen"`
}

// doubt is why a place is not used, and when it is tried again.
type doubt struct {
	Why   string    `json:"why"`
	Tries int       `json:"tries"`
	Until time.Time `json:"until"`
}

// maxTries bounds how often a place is verified that disagreed, firstRetry is when that is done again, and each time after
// that it takes retryGrows times as long.
const (
	maxTries   = 3
	firstRetry = time.Hour
	retryGrows = 8
)

// due reports whether a place that disagreed is to be tried again.
func (d doubt) due(now time.Time) bool { return d.Tries < maxTries && !now.Before(d.Until) }

func (d doubt) String() string {
	if d.Tries >= maxTries {
		return fmt.Sprintf("%s; after %d tries it is left at that", d.Why, d.Tries)
	}
	return fmt.Sprintf("%s; it is tried again after %s UTC", d.Why, d.Until.UTC().Format("2006-01-02 15:04"))
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
	known := l.builds[b]
	if known == nil {
		return undecided
	}
	key := placeKey(p)
	if v := known.Inner[key]; v != disagreed || !known.Doubts[key].due(l.now()) {
		return v
	}
	return undecided
}

// doubted says why a place is not used.
func (l *learned) doubted(b build, p *target.Place) (doubt, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.builds[b]
	if known == nil {
		return doubt{}, false
	}
	d, is := known.Doubts[placeKey(p)]
	return d, is
}

func (l *learned) survived(b build) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.builds[b]
	return known != nil && known.Survived
}

// agree remembers that an inner place showed what the entry showed.
func (l *learned) agree(b build, p *target.Place) {
	l.learn(b, func(known *lesson) bool {
		key := placeKey(p)
		old := known.Inner[key]
		if old == agreed || old == disagreed && !known.Doubts[key].due(l.now()) {
			return false
		}
		known.set(key, agreed)
		delete(known.Doubts, key)
		return true
	})
}

// refuse remembers that it did not, and when it is tried again.
func (l *learned) refuse(b build, p *target.Place, why string) {
	l.learn(b, func(known *lesson) bool {
		key := placeKey(p)
		d := known.Doubts[key]
		if known.Inner[key] == disagreed && !d.due(l.now()) {
			return false
		}
		wait := firstRetry
		for range d.Tries {
			wait *= retryGrows
		}
		known.set(key, disagreed)
		if known.Doubts == nil {
			known.Doubts = map[string]doubt{}
		}
		known.Doubts[key] = doubt{why, d.Tries + 1, l.now().UTC().Add(wait).Truncate(time.Second)}
		return true
	})
}

func (known *lesson) set(key string, v verdict) {
	if known.Inner == nil {
		known.Inner = map[string]verdict{}
	}
	known.Inner[key] = v
}

// harmless remembers that a build survived; harmful forgets it.
func (l *learned) harmless(b build) { l.setSurvived(b, true) }
func (l *learned) harmful(b build)  { l.setSurvived(b, false) }

func (l *learned) setSurvived(b build, yes bool) {
	l.learn(b, func(known *lesson) bool {
		changed := known.Survived != yes || known.Silent != ""
		known.Survived, known.Silent = yes, ""
		return changed
	})
}

// silent remembers that a build is attached, and that no call has shown how it bears that.
func (l *learned) silent(b build, path string) {
	l.learn(b, func(known *lesson) bool {
		changed := known.Silent != path
		known.Silent = path
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
			one.Inner, one.Doubts = maps.Clone(one.Inner), maps.Clone(one.Doubts)
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

// Lessons are what a person may want to know of what was learned, one line for each.
type Lessons struct {
	Silent []string // builds that are attached, and no call has shown how they bear that
	Doubts []string // cheaper places for probes that are not used, and why
}

// Learned reads them.
func Learned(dir string) (l Lessons, err error) {
	var kept lessons
	if err := load(filepath.Join(dir, LearnedFile), &kept); err != nil && !errors.Is(err, errNothingKept) {
		return Lessons{}, err
	}
	for _, b := range kept.Builds {
		if b.Silent != "" && !b.Survived {
			l.Silent = append(l.Silent, fmt.Sprintf("%s (build id %s)", target.OneLine(b.Silent), b.BuildID))
		}
		for _, place := range slices.Sorted(maps.Keys(b.Doubts)) {
			l.Doubts = append(l.Doubts, fmt.Sprintf("build id %s at %s: %s", b.BuildID, place, b.Doubts[place]))
		}
	}
	return l, nil
}
