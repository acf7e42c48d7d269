package target

import (
	"debug/elf"
	"errors"
	"fmt"
)

// goSite is where in a Go function the probes go, as file offsets. At each of them the stack pointer is what it was at
// the function's entry.
type goSite struct {
	enter   uint64   // behind the check of the stack, which runs again after the stack has grown
	returns []uint64 // return instructions
}

// maxGoFunction bounds the code that is decoded; the longest function we probe has 3 KiB.
const maxGoFunction = 64 << 10

// A function that is not as the compiler writes it gets no probe: a breakpoint in the middle of an instruction, or
// arguments taken from the wrong place, would be worse than an unseen call.
var (
	errGoPrologue = errors.New("it does not begin with a stack check that is known")
	errGoReturns  = errors.New("its return instructions could not be told")
)

// goSite decodes a function.
func (im *image) goSite(text uint64, f extent) (goSite, error) {
	if f.end <= f.entry || f.end-f.entry > maxGoFunction {
		return goSite{}, fmt.Errorf("its length is %d bytes", f.end-f.entry)
	}
	start, ok := im.fileOffset(text+f.entry, true)
	if !ok || !im.isCode(text+f.entry, text+f.end) {
		return goSite{}, errors.New("it lies outside of the program's code")
	}
	code := make([]byte, f.end-f.entry)
	if err := im.r.read(code, start); err != nil {
		return goSite{}, err
	}
	decode := decodeX86
	if im.machine == elf.EM_AARCH64 {
		decode = decodeARM64
	}
	enter, returns, err := decode(code)
	if err != nil {
		return goSite{}, err
	}
	site := goSite{enter: start + uint64(enter)}
	for _, at := range returns {
		site.returns = append(site.returns, start+uint64(at))
	}
	return site, nil
}

// goSites finds functions of a Go program: where probes go, or why they cannot.
func (im *image) goSites(names []string) (sites map[string]goSite, problems map[string]error, err error) {
	t, err := im.lineTable()
	if err != nil {
		return nil, nil, err
	}
	found, err := t.find(names)
	if err != nil || len(found) == 0 {
		return nil, nil, err
	}
	text, err := t.textBase()
	if err != nil {
		return nil, nil, err
	}
	sites, problems = map[string]goSite{}, map[string]error{}
	for name, f := range found {
		site, err := im.goSite(text, f)
		if errors.Is(err, ErrBudget) {
			return nil, nil, err
		}
		if err != nil {
			problems[name] = err
			continue
		}
		sites[name] = site
	}
	return sites, problems, nil
}
