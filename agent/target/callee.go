package target

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/arch/x86/x86asm"
)

const (
	maxSteps        = 4096    // instructions followed in one function, on all paths together
	maxFunctionSize = 8 << 10 // bytes; those looked into have about 100
)

// way is one path through a function: where it is, what the registers hold, and what it has passed.
type way struct {
	at     uint64
	regs   registers
	passed uint64 // the function that got the arguments; 0 = none yet
	ended  bool   // behind a call: where the code ends too, the callee never returns
}

// course follows all paths through a function, as far as its code tells them.
type course struct {
	im    *image
	f     function
	hands func(*registers) bool // whether a call with these registers hands the arguments on; nil = any path will do
	known map[uint64]x86asm.Inst
	left  int // steps
	paths []way

	passed uint64   // by some path
	five   bool     // some call hands on the arguments in the order of OpenSSL 3.3
	calls  []uint64 // direct calls and jumps out of the function
}

// callee finds the one function that gets the arguments of f. It is proven by every path through f: on each that returns
// more than an error this function is called, once, with the arguments where hands says.
func (im *image) callee(f function, hands func(*registers) bool) (uint64, error) {
	c := im.course(f)
	c.hands = hands
	if err := c.follow(); err != nil {
		if c.five && !errors.Is(err, ErrBudget) {
			return 0, errors.New("hands on the address of its result as a fifth argument")
		}
		return 0, err
	}
	if c.passed == 0 {
		return 0, errElsewhere
	}
	return c.passed, nil
}

// callees are all functions that f calls or jumps to directly.
func (im *image) callees(f function) ([]uint64, error) {
	c := im.course(f)
	err := c.follow()
	return c.calls, err
}

func (im *image) course(f function) *course {
	return &course{im: im, f: f, known: map[uint64]x86asm.Inst{}, left: maxSteps, paths: []way{{at: f.address, regs: atEntry()}}}
}

func (c *course) follow() error {
	if c.f.size > maxFunctionSize {
		return fmt.Errorf("its length is %d bytes", c.f.size)
	}
	for len(c.paths) > 0 {
		p := c.paths[len(c.paths)-1]
		c.paths = c.paths[:len(c.paths)-1]
		if err := c.walk(p); err != nil {
			return err
		}
	}
	return nil
}

// walk follows one path to its end, and leaves the other side of each branch for later.
func (c *course) walk(p way) error {
	for {
		if c.left--; c.left < 0 {
			return fmt.Errorf("it has a loop, or more than %d instructions", maxSteps)
		}
		end := c.f.address + c.f.size
		if c.f.size != 0 && p.at == end && p.ended {
			return nil
		}
		inst, err := c.decode(p.at)
		if err != nil {
			return err
		}
		next := p.at + uint64(inst.Len)
		if c.f.size != 0 && !c.outside(p.at) && (next > end || next == end && runsOn(inst.Op)) {
			return errors.New("it runs past its end")
		}
		to, direct := uint64(0), false
		if rel, ok := inst.Args[0].(x86asm.Rel); ok {
			to, direct = next+uint64(int64(rel)), true
		}
		p.ended = false
		switch {
		case inst.Op == x86asm.RET:
			return c.returns(p)
		case inst.Op == x86asm.UD2:
			return nil
		case inst.Op == x86asm.CALL:
			before := p.passed
			if err := c.call(&p, to, direct); err != nil {
				return err
			}
			p.regs.called()
			p.ended = p.passed == before
			if next == end && !p.ended {
				return errors.New("it runs past its end")
			}
		case inst.Op == x86asm.JMP && !direct:
			return errors.New("it jumps to where its code does not say")
		case inst.Op == x86asm.JMP:
			if c.outside(to) {
				c.calls = append(c.calls, to)
				if c.hands != nil && c.hands(&p.regs) {
					return c.pass(&p, to)
				}
				c.five = c.five || fiveArguments(&p.regs)
			}
			p.at = to
			continue
		case direct && isConditional(inst.Op):
			other := p
			other.at = to
			c.paths = append(c.paths, other)
		case direct || !p.regs.step(inst):
			return fmt.Errorf("%s at +%#x is not followed", strings.ToLower(inst.Op.String()), p.at-c.f.address)
		}
		p.at = next
	}
}

func (c *course) outside(at uint64) bool { return c.f.size != 0 && at-c.f.address >= c.f.size }

// call judges a call instruction.
func (c *course) call(p *way, to uint64, direct bool) error {
	if direct {
		c.calls = append(c.calls, to)
	}
	if c.hands == nil {
		return nil
	}
	if !c.hands(&p.regs) {
		c.five = c.five || fiveArguments(&p.regs)
		return nil
	}
	if !direct {
		return errors.New("it calls by a pointer")
	}
	return c.pass(p, to)
}

func (c *course) pass(p *way, to uint64) error {
	switch {
	case p.passed != 0:
		return errors.New("it hands its arguments on twice")
	case c.passed != 0 && c.passed != to:
		return errors.New("it hands its arguments on to two functions")
	}
	p.passed, c.passed = to, to
	return nil
}

// returns judges a path that has come to its end.
func (c *course) returns(p way) error {
	v := p.regs[rax]
	if c.hands == nil || p.passed != 0 || v.kind == constant && int32(v.n) <= 0 {
		return nil
	}
	return errElsewhere
}

func (c *course) decode(at uint64) (x86asm.Inst, error) {
	if inst, ok := c.known[at]; ok {
		return inst, nil
	}
	unknown := fmt.Errorf("its code at %+#x is not known", int64(at-c.f.address))
	offset, ok := c.im.fileOffset(at, true)
	if !ok {
		return x86asm.Inst{}, unknown
	}
	code, err := c.im.codeAt(offset)
	if err != nil {
		return x86asm.Inst{}, err
	}
	if strings.HasPrefix(string(code), endbr64) {
		c.known[at] = x86asm.Inst{Op: x86asm.NOP, Len: len(endbr64)}
		return c.known[at], nil
	}
	inst, ok := decodeOne(code)
	if !ok {
		return x86asm.Inst{}, unknown
	}
	c.known[at] = inst
	return inst, nil
}

// runsOn reports whether the next instruction comes after this one for sure: a callee may never return.
func runsOn(op x86asm.Op) bool {
	return op != x86asm.RET && op != x86asm.JMP && op != x86asm.CALL && op != x86asm.UD2
}

func isConditional(op x86asm.Op) bool {
	switch op {
	case x86asm.JA, x86asm.JAE, x86asm.JB, x86asm.JBE, x86asm.JE, x86asm.JG, x86asm.JGE, x86asm.JL, x86asm.JLE, x86asm.JNE,
		x86asm.JNO, x86asm.JNP, x86asm.JNS, x86asm.JO, x86asm.JP, x86asm.JS:
		return true
	}
	return false
}
