package target

import (
	"debug/elf"
	"errors"
	"fmt"

	"golang.org/x/arch/x86/x86asm"
)

// ahead looks for a cheaper place for a program that reads a function's arguments and needs no return: the first emulated
// instruction on the straight way from the entry, with the arguments where they were. Every call passes it, once, since
// nothing branches off before it and nothing jumps back behind the entry. So the code itself is the proof, and live calls
// need not show it. A return probe cannot go there: the stack may have moved.
//
//	BIO_write: xor %eax,%eax; test %edx,%edx; jle     a compare and a branch are what a function checks its arguments with
func (im *image) ahead(f function) (Inside, error) {
	if im.machine != elf.EM_X86_64 {
		return Inside{Refused: "code is followed for amd64 only"}, nil
	}
	at, err := im.course(f).straight()
	switch {
	case errors.Is(err, ErrBudget):
		return Inside{}, err
	case err != nil:
		return Inside{Refused: err.Error()}, nil
	}
	return Inside{Place: at}, nil
}

// straight follows a function until its first branch or emulated instruction.
func (c *course) straight() (Place, error) {
	if c.f.size == 0 || c.f.size > maxFunctionSize {
		return Place{}, fmt.Errorf("its length is %d bytes", c.f.size)
	}
	regs := atEntry()
	for at := c.f.address; !c.outside(at); {
		inst, err := c.decode(at)
		if err != nil {
			return Place{}, err
		}
		offset, _ := c.im.fileOffset(at, true)
		place, err := c.im.placeAt(offset)
		if err != nil {
			return Place{}, err
		}
		name := fmt.Sprintf("%s at +%#x", place.Name, at-c.f.address)
		switch {
		case place.Class == Emulated && !argumentsAlive(&regs):
			return Place{}, fmt.Errorf("an argument is gone before %s", name)
		case place.Class == Emulated:
			return place, c.onlyFromEntry(at)
		case !regs.step(inst):
			return Place{}, fmt.Errorf("%s is not followed", name)
		}
		at += uint64(inst.Len)
	}
	return Place{}, errors.New("it runs past its end")
}

// argumentsAlive reports whether the first three arguments are as they came: no program that needs no return reads more.
func argumentsAlive(r *registers) bool { return r.passes(0, 0) && r.passes(1, 1) && r.passes(2, 2) }

// onlyFromEntry makes sure that no branch of the function leads to between its entry and a place: that would be a loop,
// whose later rounds are no calls.
func (c *course) onlyFromEntry(place uint64) error {
	for at := c.f.address; !c.outside(at); {
		inst, err := c.decode(at)
		if err != nil {
			return err
		}
		next := at + uint64(inst.Len)
		rel, direct := inst.Args[0].(x86asm.Rel)
		to := next + uint64(int64(rel))
		switch {
		case direct && to > c.f.address && to <= place:
			return fmt.Errorf("it jumps back to +%#x", to-c.f.address)
		case inst.Op == x86asm.JMP && !direct:
			return errors.New("it jumps to where its code does not say")
		}
		at = next
	}
	return nil
}
