package target

import (
	"errors"
	"io"
	"os"
	"sync"
)

// Facts are what an ELF file says about itself.
type Facts struct {
	BuildID   string
	Functions map[string]uint64 // exported functions that were asked for → file offset of the entry
	Places    map[string]uint64 // the same functions → file offset where probes cost least
	Go        *Go               // nil: not a Go program
	StaticTLS string            // a function of OpenSSL or BoringSSL that is linked into the executable; "" = none found
	Partial   bool              // the budget was spent before every question was answered
	Carried   []Carried         // what a program has of the table (InspectProgram)
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
	if f.Functions, err = im.exported(symbols); err != nil {
		return Facts{}, err
	}
	f.Places = make(map[string]uint64, len(f.Functions))
	for name, entry := range f.Functions {
		f.Places[name] = im.place(entry)
	}
	return f, nil
}

// InspectExecutable reads how a program may do TLS by itself. A spent budget leaves questions open, it is no error.
func InspectExecutable(r io.ReaderAt, b Budget) (Facts, error) {
	im, err := openImage(newBounded(r, b))
	if err != nil {
		return Facts{}, err
	}
	var f Facts
	for _, ask := range []func() error{
		func() (err error) { f.BuildID, err = im.buildID(); return err },
		func() (err error) {
			g, ok, err := im.golang()
			if ok {
				f.Go = &g
				f.Partial = g.TLS == Unknown
			}
			return err
		},
		func() (err error) {
			static := []string{"SSL_read", "SSL_write"}
			if f.Functions, err = im.exported(static); err == nil && len(f.Functions) == 0 {
				f.Functions, err = im.linked(static)
			}
			for _, name := range static {
				if _, ok := f.Functions[name]; ok {
					f.StaticTLS = name
					break
				}
			}
			return err
		},
	} {
		if err := ask(); errors.Is(err, ErrBudget) {
			f.Partial = true
		} else if err != nil {
			return f, err
		}
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
	library string // "" = read as an executable
}

type cacheEntry struct {
	facts Facts
	err   error
}

// NewCache makes an empty cache.
func NewCache(b Budget) *Cache { return &Cache{budget: b, entries: map[cacheKey]cacheEntry{}} }

func (c *Cache) library(f *os.File, s stamp, lib Library) (Facts, error) {
	return c.get(cacheKey{s, lib.Name}, func() (Facts, error) { return InspectLibrary(f, lib.symbols(), c.budget) })
}

func (c *Cache) executable(f *os.File, s stamp) (Facts, error) {
	return c.get(cacheKey{s, ""}, func() (Facts, error) { return InspectExecutable(f, c.budget) })
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
	if ok {
		return e.facts, e.err
	}
	e.facts, e.err = read()
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
