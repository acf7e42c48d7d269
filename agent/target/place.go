package target

import (
	"debug/elf"
)

// place chooses where at the entry of a function the probes go. The kernel emulates a push, but runs endbr64 out of line
// in single-step mode, which costs 5 to 8 times as much per call. Behind an endbr64 that precedes a push every argument
// and the return address are still where they were at the entry, so entry and return probes both work there.
func (im *image) place(entry uint64) (Place, error) {
	first, err := im.placeAt(entry)
	if err != nil || im.machine != elf.EM_X86_64 || first.Name != "endbr64" {
		return first, err
	}
	code, err := im.codeAt(entry + uint64(len(endbr64)))
	if err != nil {
		return first, err
	}
	const short, long = 1, 2 // bytes of a push
	if len(code) >= long && (isPush(code[:short]) || isPush(code[:long])) {
		return Place{Name: "push", Offset: entry + uint64(len(endbr64)), Class: Emulated}, nil
	}
	return first, nil
}

// survey is where probes may go in the functions of a file.
type survey struct {
	functions map[string]function // those that were asked for and are there
	places    map[string]Place    // at or behind the entry of each
	inside    map[string]Inside
	ahead     map[string]Inside // of those that are dear at their entry
}

// survey finds functions by one of the symbol tables, and the places in them.
func (im *image) survey(find func([]string) (map[string]function, error), names []string) (survey, error) {
	all, err := find(withWitnesses(names))
	if err != nil {
		return survey{}, err
	}
	s := survey{functions: map[string]function{}, places: map[string]Place{}, ahead: map[string]Inside{}}
	for _, name := range names {
		f, ok := all[name]
		if !ok {
			continue
		}
		s.functions[name] = f
		if s.places[name], err = im.place(f.offset); err != nil {
			return survey{}, err
		}
		if s.places[name].Class == Emulated {
			continue
		}
		if s.ahead[name], err = im.ahead(f); err != nil {
			return survey{}, err
		}
	}
	s.inside, err = im.inside(all, s.places)
	return s, err
}
