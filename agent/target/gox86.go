package target

import (
	"fmt"
	"slices"

	"golang.org/x/arch/x86/x86asm"
)

// decodeX86 finds where probes go in a function that Go compiled for amd64, as offsets into its code.
//
// It begins with one of these (cmd/internal/obj/x86, stacksplit), R14 being g and 16(R14) its stack guard:
//
//	CMPQ SP, 16(R14)                                          frames up to 128 bytes
//	LEAQ -N(SP), R12; CMPQ R12, 16(R14)                       frames up to 4 KiB
//	MOVQ SP, R12; SUBQ $N, R12; JCS more; CMPQ R12, 16(R14)   larger frames
//
// and then JLS more. None of them touches SP or an argument. Where the stack has to grow, the code at "more" jumps back
// to the entry, so what follows runs once per call. That is the frame, and each return ends it:
//
//	PUSHQ BP ... POPQ BP; RET               since Go 1.21; the kernel emulates a push, at low cost
//	SUBQ $N, SP ... ADDQ $N, SP; RET        Go 1.18 to 1.20; the kernel steps over it
func decodeX86(code []byte) (enter int, returns []int, err error) {
	enter, size, err := frameAfterCheck(code)
	if err != nil {
		return 0, nil, err
	}
	returns, err = returnsX86(code, size)
	return enter, returns, err
}

// frameAfterCheck finds the instruction that makes the frame. size is what it subtracts from SP, 0 where it is a push.
func frameAfterCheck(code []byte) (at int, size int64, err error) {
	const maxPrologue = 8 // instructions
	compared, checked := false, false
	scratch := x86asm.Arg(x86asm.RSP) // what is compared with the guard
	for range maxPrologue {
		inst, err := x86asm.Decode(code[at:], 64)
		if err != nil {
			return 0, 0, errGoPrologue
		}
		next := at + inst.Len
		if size := grows(inst); size > 0 && checked {
			return at, size, nil
		}
		a, b := inst.Args[0], inst.Args[1]
		switch inst.Op {
		case x86asm.LEA:
			// The decoder leaves 32-bit displacements without their sign.
			m, ok := b.(x86asm.Mem)
			if a != x86asm.R12 || !ok || m.Base != x86asm.RSP || m.Index != 0 || int32(m.Disp) >= 0 {
				return 0, 0, errGoPrologue
			}
			scratch = x86asm.R12
		case x86asm.MOV:
			if a != x86asm.R12 || b != x86asm.RSP {
				return 0, 0, errGoPrologue
			}
			scratch = x86asm.R12
		case x86asm.SUB:
			if _, ok := b.(x86asm.Imm); a != x86asm.R12 || scratch != x86asm.R12 || !ok {
				return 0, 0, errGoPrologue
			}
		case x86asm.CMP:
			m, ok := b.(x86asm.Mem)
			if a != scratch || !ok || m.Base != x86asm.R14 || m.Disp != 16 || m.Index != 0 || m.Segment != 0 {
				return 0, 0, errGoPrologue
			}
			compared = true
		case x86asm.JB, x86asm.JBE:
			if rel, ok := a.(x86asm.Rel); !ok || int64(rel) <= 0 || int64(next)+int64(rel) >= int64(len(code)) {
				return 0, 0, errGoPrologue
			}
			checked = compared
		case x86asm.PUSH:
			if !checked || a != x86asm.RBP {
				return 0, 0, errGoPrologue
			}
			return at, 0, nil
		default:
			return 0, 0, errGoPrologue
		}
		at = next
	}
	return 0, 0, errGoPrologue
}

// grows is by how much an instruction makes the stack larger. The assembler writes the shorter of SUBQ and ADDQ.
func grows(inst x86asm.Inst) int64 {
	n, ok := inst.Args[1].(x86asm.Imm)
	switch {
	case !ok || inst.Args[0] != x86asm.RSP:
		return 0
	case inst.Op == x86asm.SUB:
		return int64(n)
	case inst.Op == x86asm.ADD:
		return -int64(n)
	}
	return 0
}

// returnsX86 decodes all instructions. A return counts when it stands behind the end of the frame, with nothing but
// padding between; any other return, and any jump that leaves the function, makes it one we do not know.
func returnsX86(code []byte, size int64) (returns []int, err error) {
	var starts, targets []int
	ended := false
	for at := 0; at < len(code); {
		inst, err := x86asm.Decode(code[at:], 64)
		if err != nil {
			return nil, fmt.Errorf("%w: the instruction at +%#x is not known", errGoReturns, at)
		}
		starts = append(starts, at)
		next := at + inst.Len
		if rel, ok := inst.Args[0].(x86asm.Rel); ok && inst.Op != x86asm.CALL {
			targets = append(targets, next+int(rel))
		}
		switch {
		case inst.Op == x86asm.RET:
			if !ended || inst.Len != 1 {
				return nil, fmt.Errorf("%w: the one at +%#x does not end a frame", errGoReturns, at)
			}
			returns = append(returns, at)
			ended = false
		case size == 0 && inst.Op == x86asm.POP:
			ended = inst.Args[0] == x86asm.RBP
		case inst.Op == x86asm.NOP:
		default:
			ended = size != 0 && grows(inst) == -size
		}
		at = next
	}
	// A jump into the middle of an instruction, or out of the function, would mean that the decoding went astray.
	for _, to := range targets {
		if _, ok := slices.BinarySearch(starts, to); !ok {
			return nil, fmt.Errorf("%w: a jump leads to %+#x", errGoReturns, to)
		}
	}
	if len(returns) == 0 {
		return nil, errGoReturns
	}
	return returns, nil
}
