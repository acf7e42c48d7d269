package target

import (
	"debug/elf"
	"errors"
	"fmt"
	"slices"
)

// Inside is the answer to the search for a cheaper place inside a function.
type Inside struct {
	Place
	Refused string // why there is none; "" where Place is one
}

// pair is two functions that do one thing by one function of the library's own:
//
//	int SSL_read(SSL *s, void *buf, int num)                                  calls inner(s, buf, num, &done)
//	int SSL_read_ex(SSL *s, void *buf, size_t num, size_t *done)              calls inner(s, buf, num, done)
//	int SSL_write_ex2(SSL *s, void *buf, size_t num, flags, size_t *done)     calls inner(s, buf, num, flags, done)
//
// OpenSSL 1.1.1 to 3.x are written like that (ssl/ssl_lib.c), since 3.3 with flags where it writes; whether a build is, its
// code says. What inner has as arguments is what the programs for the second function expect.
type pair struct {
	plain, ex   witness
	also        witness  // goes there where its code says so; it need not
	not         []string // what does the like, and is not to be mistaken for it
	static      string   // how inner is called where a symbol table has it
	enter, exit string   // BPF programs
}

// witness is a function, and the form in which it hands on its arguments.
type witness struct {
	name  string
	hands func(*registers) bool
}

func pairs() []pair {
	peeks := []string{"SSL_peek", "SSL_peek_ex"}
	return []pair{{
		plain: witness{"SSL_read", plainArguments}, ex: witness{"SSL_read_ex", exArguments},
		not: peeks, static: "ssl_read_internal", enter: "ssl_read_ex_enter", exit: "ssl_read_ex_exit",
	}, {
		plain: witness{"SSL_write", plainArguments}, ex: witness{"SSL_write_ex", exArguments},
		not: peeks, static: "ssl_write_internal", enter: "ssl_write_ex_enter", exit: "ssl_write_ex_exit",
	}, {
		plain: witness{"SSL_write", plainAndFlags}, ex: witness{"SSL_write_ex2", ex2Arguments}, also: witness{"SSL_write_ex", exAndFlags},
		not: peeks, static: "ssl_write_internal", enter: "ssl_write_ex2_enter", exit: "ssl_write_ex_exit",
	}}
}

// withWitnesses adds the names that testify about those asked for.
func withWitnesses(names []string) []string {
	all := slices.Clone(names)
	for _, p := range pairs() {
		if slices.Contains(names, p.plain.name) && slices.Contains(names, p.ex.name) {
			all = append(all, p.static)
			all = append(all, p.not...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// errElsewhere says that the code does not show that all calls pass one place with arguments that are known.
var errElsewhere = errors.New("no single call gets its arguments")

// inside looks for cheaper places in the pairs of which a function is dear to probe. A doubt is a refusal: then the probes
// stay at the entry, where nothing can be mistaken.
func (im *image) inside(found map[string]function, places map[string]Place) (map[string]Inside, error) {
	list := map[string]Inside{}
	targets := map[uint64]string{}
	for _, p := range pairs() {
		plain, ok := places[p.plain.name]
		ex, both := places[p.ex.name]
		before, again := list[p.plain.name]
		switch {
		case !ok, plain.Class == Emulated && (!both || ex.Class == Emulated):
			continue
		case again && (before.Refused == "" || !both):
			continue
		}
		in, target, err := im.insidePair(p, found)
		if errors.Is(err, ErrBudget) {
			return nil, err
		}
		if other, taken := targets[target]; err == nil && taken {
			err = fmt.Errorf("%s calls the same function", other)
		}
		if err != nil {
			in = Inside{Refused: err.Error()}
		} else {
			targets[target] = p.plain.name
		}
		list[p.plain.name] = in
		if both {
			list[p.ex.name] = in
		}
		if err == nil && p.also.name != "" {
			if err := im.goesToo(p.also, found, places, target, found[p.ex.name].address); errors.Is(err, ErrBudget) {
				return nil, err
			} else if err == nil {
				list[p.also.name] = in
			}
		}
	}
	return list, nil
}

// errNot says that a function does not take part.
var errNot = errors.New("it goes elsewhere")

// goesToo finds out whether one more function hands its arguments on to one of these places.
func (im *image) goesToo(w witness, found map[string]function, places map[string]Place, targets ...uint64) error {
	if _, there := places[w.name]; !there {
		return errNot
	}
	to, err := im.callee(found[w.name], w.hands)
	if err == nil && !slices.Contains(targets, to) {
		err = errNot
	}
	return err
}

// insidePair finds the function that both of a pair call, as two witnesses that agree.
func (im *image) insidePair(p pair, found map[string]function) (Inside, uint64, error) {
	if im.machine != elf.EM_X86_64 {
		return Inside{}, 0, errors.New("calls are followed in code for amd64 only")
	}
	if _, ok := found[p.ex.name]; !ok {
		return Inside{}, 0, fmt.Errorf("there is no %s to compare with", p.ex.name)
	}
	plain, err := im.callee(found[p.plain.name], p.plain.hands)
	if err != nil {
		return Inside{}, 0, fmt.Errorf("%s: %w", p.plain.name, err)
	}
	ex, err := im.callee(found[p.ex.name], p.ex.hands)
	if err != nil {
		return Inside{}, 0, fmt.Errorf("%s: %w", p.ex.name, err)
	}
	if plain != ex {
		return Inside{}, 0, fmt.Errorf("%s and %s call two functions", p.plain.name, p.ex.name)
	}
	for _, name := range p.not {
		f, ok := found[name]
		if !ok {
			continue
		}
		calls, err := im.callees(f)
		if err != nil {
			return Inside{}, 0, fmt.Errorf("%s: %w", name, err)
		}
		if slices.Contains(calls, plain) {
			return Inside{}, 0, fmt.Errorf("%s calls the same function", name)
		}
	}
	name := "call target of " + p.ex.name
	static, err := im.thirdWitness(p.static, found)
	switch {
	case err != nil:
		return Inside{}, 0, fmt.Errorf("search the symbol table for %s: %w", p.static, err)
	case static.address == plain:
		name = p.static + ", " + name
	case static.address != 0:
		return Inside{}, 0, fmt.Errorf("the symbol table has %s elsewhere", p.static)
	}
	offset, ok := im.fileOffset(plain, true)
	if !ok {
		return Inside{}, 0, errors.New("the function that is called lies outside of the file's code")
	}
	place, err := im.place(offset)
	if err != nil {
		return Inside{}, 0, err
	}
	if place.Class != Emulated {
		return Inside{}, 0, fmt.Errorf("the function that is called begins with %s, which is no cheaper", place.Name)
	}
	return Inside{Place: Place{Name: name, Offset: place.Offset, Class: place.Class, Enter: p.enter, Exit: p.exit}}, plain, nil
}

// thirdWitness finds a static function by its name, in a file that was not stripped. It reads on an account of its own,
// since a large table of symbols must not end the look at the file.
func (im *image) thirdWitness(name string, found map[string]function) (function, error) {
	if f, ok := found[name]; ok {
		return f, nil
	}
	aside := *im
	aside.r = im.r.again()
	list, err := aside.linked([]string{name})
	if errors.Is(err, ErrBudget) {
		err = errTooLarge
	}
	return list[name], err
}

// errTooLarge is no ErrBudget: what was read of the file stands.
var errTooLarge = errors.New("it is too large")

// plainArguments are those that SSL_read and SSL_write hand on: the number as it was widened, and for what was done the
// address of a variable of their own.
func plainArguments(r *registers) bool {
	return r.passes(0, 0) && r.passes(1, 1) && r[rdx] == value{extended, 2} && r[rcx].kind == frame
}

// exArguments are those of SSL_read_ex and SSL_write_ex as they came.
func exArguments(r *registers) bool {
	return r.passes(0, 0) && r.passes(1, 1) && r.passes(2, 2) && r.passes(3, 3)
}

// plainAndFlags is how SSL_write hands on since OpenSSL 3.3, with the flags where the address was.
func plainAndFlags(r *registers) bool {
	return r.passes(0, 0) && r.passes(1, 1) && r[rdx] == value{extended, 2} && r[rcx] == value{kind: constant} && r[r8].kind == frame
}

// exAndFlags is SSL_write_ex: its address is the fifth argument now.
func exAndFlags(r *registers) bool {
	return r.passes(0, 0) && r.passes(1, 1) && r.passes(2, 2) && r[rcx] == value{kind: constant} && r.passes(4, 3)
}

// ex2Arguments are those of SSL_write_ex2 as they came.
func ex2Arguments(r *registers) bool { return exArguments(r) && r.passes(4, 4) }

// fiveArguments reports whether the fifth argument may be the address of the result.
func fiveArguments(r *registers) bool { return plainAndFlags(r) || exAndFlags(r) }
