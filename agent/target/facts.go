package target

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// Facts are what an ELF file says about itself.
type Facts struct {
	BuildID   string
	Functions map[string]uint64 // exported functions that were asked for → file offset of the entry
	Places    map[string]Place  // the same functions → where probes at their entry cost least; Name is the instruction
	Inside    map[string]Inside // those whose Place is dear and that were searched for a cheaper one
	Ahead     map[string]Inside // those whose Place is dear → where a program may go that only reads their arguments
	Carried   []Carried         // of the table's entries for programs (InspectProgram)
}

// InspectLibrary reads what probing a library needs.
func InspectLibrary(r io.ReaderAt, symbols []string, b Budget) (Facts, error) {
	im, err := openImage(newBounded(r, b))
	if err != nil {
		return Facts{}, err
	}
	var f Facts
	if f.BuildID, err = im.buildID(); err != nil {
		return Facts{}, err
	}
	s, err := im.survey(im.exported, symbols)
	if err != nil {
		return Facts{}, err
	}
	f.Functions, f.Places, f.Inside, f.Ahead = make(map[string]uint64, len(s.functions)), s.places, s.inside, s.ahead
	for name, at := range s.functions {
		f.Functions[name] = at.offset
	}
	return f, nil
}

// maxCachedFiles bounds the cache; a host has far fewer distinct programs.
const maxCachedFiles = 4096

// Cache remembers what was read of files, and which could not be read. It is safe for concurrent use.
type Cache struct {
	mu      sync.Mutex
	budget  Budget
	entries map[cacheKey]cacheEntry
}

type cacheKey struct {
	stamp   stamp
	library string // or what else it was read for
}

type cacheEntry struct {
	facts Facts
	err   error
	until time.Time // when to read again; zero = never
}

// retrySpent is when a file that spent its budget is read again: the host may have been short of processors.
const retrySpent = time.Minute

// spent reports whether a budget ended the reading before the answer was known.
func (e cacheEntry) spent() bool {
	return errors.Is(e.err, ErrBudget) || slices.ContainsFunc(e.facts.Carried, func(c Carried) bool { return errors.Is(c.Problem, ErrBudget) })
}

// NewCache makes an empty cache.
func NewCache(b Budget) *Cache { return &Cache{budget: b, entries: map[cacheKey]cacheEntry{}} }

func (c *Cache) library(f *os.File, s stamp, lib Library) (Facts, error) {
	return c.get(cacheKey{s, lib.Name}, func() (Facts, error) { return InspectLibrary(f, lib.symbols(), c.budget) })
}

// BuildID reads the build id of the program that a process runs: "" where it has none or cannot be read.
func (c *Cache) BuildID(proc string, pid uint32) string {
	f, err := os.Open(procPath(proc, pid, "exe"))
	if err != nil {
		return ""
	}
	defer f.Close()
	s, err := stampOf(f)
	if err != nil {
		return ""
	}
	key := cacheKey{s, "build-id"}
	facts, err := c.get(key, func() (Facts, error) {
		id, err := BuildID(f, c.budget)
		return Facts{BuildID: id}, err
	})
	if err != nil {
		return ""
	}
	return facts.BuildID
}

func (c *Cache) get(key cacheKey, read func() (Facts, error)) (Facts, error) {
	c.mu.Lock()
	e, ok := c.entries[key]
	c.mu.Unlock()
	if ok && (e.until.IsZero() || time.Now().Before(e.until)) {
		return e.facts, e.err
	}
	e = cacheEntry{}
	fresh := key.stamp.fresh()
	e.facts, e.err = read()
	if e.spent() {
		e.until = time.Now().Add(retrySpent)
	}
	if fresh {
		return e.facts, e.err // what is written next may have the same stamp
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= maxCachedFiles {
		// Any one will do: what is still in use is read again once.
		for old := range c.entries {
			delete(c.entries, old)
			break
		}
	}
	c.entries[key] = e
	return e.facts, e.err
}
