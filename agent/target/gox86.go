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
// and then JLS more; PUSHQ BP. None of them touches SP or an argument. Where the stack has to grow, the code at "more"
// jumps back to the entry, so the push runs once per call, and the kernel emulates it at low cost.
func decodeX86(code []byte) (enter int, returns []int, err error) {
	enter, err = pushAfterCheck(code)
	if err != nil {
		return 0, nil, err
	}
	returns, err = returnsX86(code)
	return enter, returns, err
}

func pushAfterCheck(code []byte) (int, error) {
	const maxPrologue = 8 // instructions
	checked := false
	scratch := x86asm.Arg(x86asm.RSP) // what is compared with the guard
	at := 0
	for range maxPrologue {
		inst, err := x86asm.Decode(code[at:], 64)
		if err != nil {
			return 0, errGoPrologue
		}
		next := at + inst.Len
		a, b := inst.Args[0], inst.Args[1]
		switch inst.Op {
		case x86asm.LEA:
			// The decoder leaves 32-bit displacements without their sign.
			m, ok := b.(x86asm.Mem)
			if a != x86asm.R12 || !ok || m.Base != x86asm.RSP || m.Index != 0 || int32(m.Disp) >= 0 {
				return 0, errGoPrologue
			}
			scratch = x86asm.R12
		case x86asm.MOV:
			if a != x86asm.R12 || b != x86asm.RSP {
				return 0, errGoPrologue
			}
			scratch = x86asm.R12
		case x86asm.SUB:
			if _, ok := b.(x86asm.Imm); a != x86asm.R12 || scratch != x86asm.R12 || !ok {
				return 0, errGoPrologue
			}
		case x86asm.CMP:
			m, ok := b.(x86asm.Mem)
			if a != scratch || !ok || m.Base != x86asm.R14 || m.Disp != 16 || m.Index != 0 || m.Segment != 0 {
				return 0, errGoPrologue
			}
			checked = true
		case x86asm.JB, x86asm.JBE:
			if rel, ok := a.(x86asm.Rel); !ok || int64(rel) <= 0 || int64(next)+int64(rel) >= int64(len(code)) {
				return 0, errGoPrologue
			}
		case x86asm.PUSH:
			if !checked || a != x86asm.RBP {
				return 0, errGoPrologue
			}
			return at, nil
		default:
			return 0, errGoPrologue
		}
		at = next
	}
	return 0, errGoPrologue
}

// returnsX86 decodes all instructions. A return counts when it stands behind POPQ BP, the end of every frame, with
// nothing but padding between; any other return, and any jump that leaves the function, makes it one we do not know.
func returnsX86(code []byte) (returns []int, err error) {
	var starts, targets []int
	popped := false
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
		switch inst.Op {
		case x86asm.RET:
			if !popped || inst.Len != 1 {
				return nil, fmt.Errorf("%w: the one at +%#x does not end a frame", errGoReturns, at)
			}
			returns = append(returns, at)
			popped = false
		case x86asm.POP:
			popped = inst.Args[0] == x86asm.RBP
		case x86asm.NOP:
		default:
			popped = false
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
