package target

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// programsAreLarger is how much more may be read of a program than of a library: a name that has no hash table is looked
// for in all the names of the program, which are tens of megabytes in the largest.
const programsAreLarger = 16

// Carried is what a program has in itself of one entry of the table.
type Carried struct {
	Library string
	Sites   []Site
	Problem error // why it cannot be probed; then there are no Sites
}

// DescribeProgram looks into a program for TLS that it carries itself: exported or static functions, and Go's crypto/tls.
// found is false where it has none. A file is read once, whatever the number of processes that run it.
func DescribeProgram(cache *Cache, libs []Library, path string, handle *os.File) (file File, found bool) {
	s, err := stampOf(handle)
	if err != nil {
		return File{}, false
	}
	fresh := s.fresh()
	facts, err := cache.program(handle, s, libs)
	if err != nil || len(facts.Carried) == 0 {
		return File{}, false
	}
	file = File{ID: s.id, Path: path}
	file.ID.BuildID = facts.BuildID
	var names []string
	for _, c := range facts.Carried {
		if c.Problem == nil {
			names = append(names, c.Library)
			file.Sites = append(file.Sites, c.Sites...)
		}
	}
	if len(file.Sites) == 0 {
		first := facts.Carried[0]
		file.Library = first.Library
		file.Problem = fmt.Errorf("read %s: %w; its calls stay unseen", path, first.Problem)
		return file, true
	}
	file.Library, file.Handle = strings.Join(names, " and "), handle
	file.describedBy(s, fresh, func(handle *os.File) File {
		again, _ := DescribeProgram(NewCache(cache.budget), libs, path, handle)
		return again
	})
	return file, true
}

func (c *Cache) program(f *os.File, s stamp, libs []Library) (Facts, error) {
	larger := Budget{Bytes: c.budget.Bytes * programsAreLarger, Time: c.budget.Time}
	return c.get(cacheKey{s, "program"}, func() (Facts, error) { return InspectProgram(f, libs, larger) })
}

// InspectProgram reads what a program carries of the table's entries for programs.
func InspectProgram(r io.ReaderAt, libs []Library, b Budget) (Facts, error) {
	im, err := openImage(newBounded(r, b))
	if err != nil {
		return Facts{}, err
	}
	var f Facts
	if im.machine != nativeMachine() {
		return f, nil
	}
	if f.BuildID, err = im.buildID(); err != nil {
		return f, err
	}
	var spent error
	for _, lib := range libs {
		im.r = newBounded(r, b) // one entry must not starve the next
		var carried Carried
		var found bool
		switch lib.Where {
		case Executable:
			carried, found, err = im.carriesSymbols(lib)
		case GoProgram:
			carried, found, err = im.carriesGo(lib)
		}
		switch {
		case errors.Is(err, ErrBudget):
			spent = fmt.Errorf("search for %s: %w", lib.Name, err)
		case err != nil:
			return f, fmt.Errorf("search for %s: %w", lib.Name, err)
		case found:
			f.Carried = append(f.Carried, carried)
		}
	}
	if len(f.Carried) == 0 {
		return f, spent
	}
	return f, nil
}

func nativeMachine() elf.Machine {
	if runtime.GOARCH == "arm64" {
		return elf.EM_AARCH64
	}
	return elf.EM_X86_64
}

// carriesSymbols finds the functions of a library in what the program exports, else in its symbol table.
func (im *image) carriesSymbols(lib Library) (Carried, bool, error) {
	for _, find := range []func([]string) (map[string]function, error){im.exported, im.linked} {
		s, err := im.survey(find, lib.symbols())
		if err != nil {
			return Carried{}, false, err
		}
		if sites, missing := lib.sites(s.places, s.inside, s.ahead); missing == "" && len(sites) > 0 {
			return Carried{Library: lib.Name, Sites: sites}, true, nil
		}
	}
	return Carried{}, false, nil
}

// carriesGo finds the functions of a package in a Go program. One that the program never calls is not linked in, and
// then nothing is missed by it.
func (im *image) carriesGo(lib Library) (Carried, bool, error) {
	c := Carried{Library: lib.Name}
	info, ok, err := im.buildInfo()
	if err != nil || !ok {
		return c, false, err
	}
	places, problems, err := im.goSites(lib.symbols())
	if err != nil {
		// Whether it has TLS is not known then, but a Go program that cannot be read is worth a line.
		c.Problem = fmt.Errorf("this Go program (%s) could not be searched: %w", im.goVersion(info), err)
		return c, true, nil
	}
	for _, f := range lib.Functions {
		if err, ok := problems[f.Symbol]; ok && f.Required {
			// Half a connection would be misread as a whole one.
			return Carried{Library: lib.Name, Problem: fmt.Errorf("%s (%s) cannot be probed: %w", f.Symbol, im.goVersion(info), err)}, true, nil
		}
		place, ok := places[f.Symbol]
		if !ok {
			continue
		}
		at, err := im.placeAt(place.enter)
		if err != nil {
			return c, false, err
		}
		site := Site{Symbol: f.Symbol, Offset: place.enter, Class: at.Class, Code: at.Name, Enter: f.Enter, Exit: f.Exit}
		if f.Exit != "" {
			site.Returns = place.returns
			ret, err := im.placeAt(place.returns[0])
			if err != nil {
				return c, false, err
			}
			site.ReturnClass = ret.Class
		}
		c.Sites = append(c.Sites, site)
	}
	return c, len(c.Sites) > 0, nil
}
