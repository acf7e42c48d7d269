package target

import "golang.org/x/arch/x86/x86asm"

// value is what is known of a register's content.
type value struct {
	kind kind
	n    int64
}

type kind uint8

const (
	whatever kind = iota
	argument      // the function's n-th, counted from 0, as it came
	extended      // the low 32 bits of the n-th, extended to 64
	frame         // an address in the function's own frame
	constant      // n
)

// registers are the 16 general ones of amd64, by their number in an instruction.
type registers [16]value

const (
	rax = 0
	rcx = 1
	rdx = 2
	rsp = 4
	rsi = 6
	rdi = 7
	r8  = 8
	r11 = 11
)

// argumentRegister is where the n-th argument is handed over (System V psABI for amd64, 3.2.3).
func argumentRegister(n int) int { return [...]int{rdi, rsi, rdx, rcx, r8, 9}[n] }

// atEntry is what registers hold when a function begins.
func atEntry() (r registers) {
	for n := range 6 {
		r[argumentRegister(n)] = value{argument, int64(n)}
	}
	r[rsp] = value{kind: frame}
	return r
}

// passes reports whether the n-th argument of a call is the function's own m-th.
func (r *registers) passes(n, m int) bool { return r[argumentRegister(n)] == value{argument, int64(m)} }

// called forgets what a callee need not preserve.
func (r *registers) called() {
	for _, i := range []int{rax, rcx, rdx, rsi, rdi, 8, 9, 10, r11} {
		r[i] = value{}
	}
}

// general tells which general register an operand is, and how many bits of it.
func general(a x86asm.Arg) (number, bits int, ok bool) {
	r, ok := a.(x86asm.Reg)
	switch {
	case !ok:
		return 0, 0, false
	case r >= x86asm.AL && r <= x86asm.BL:
		return int(r - x86asm.AL), 8, true
	case r >= x86asm.AH && r <= x86asm.BH:
		return int(r - x86asm.AH), 8, true
	case r >= x86asm.SPB && r <= x86asm.R15B:
		return int(r-x86asm.SPB) + rsp, 8, true
	case r >= x86asm.AX && r <= x86asm.R15W:
		return int(r - x86asm.AX), 16, true
	case r >= x86asm.EAX && r <= x86asm.R15L:
		return int(r - x86asm.EAX), 32, true
	case r >= x86asm.RAX && r <= x86asm.R15:
		return int(r - x86asm.RAX), 64, true
	}
	return 0, 0, false
}

// read is what is known of an operand.
func (r *registers) read(a x86asm.Arg) value {
	if imm, ok := a.(x86asm.Imm); ok {
		return value{constant, int64(imm)}
	}
	i, bits, ok := general(a)
	if !ok {
		return value{}
	}
	switch v := r[i]; {
	case bits == 64:
		return v
	case bits < 32:
	case v.kind == argument, v.kind == extended:
		return value{extended, v.n}
	case v.kind == constant:
		return value{constant, int64(uint32(v.n))}
	}
	return value{}
}

// write puts a value where an operand says. Memory is not followed: what is read from it is not known.
func (r *registers) write(a x86asm.Arg, v value) {
	i, bits, ok := general(a)
	if !ok {
		return
	}
	if bits == 32 && v.kind == constant {
		v.n = int64(uint32(v.n))
	}
	if bits < 32 || bits == 32 && v.kind != constant && v.kind != extended {
		v = value{}
	}
	r[i] = v
}

// step applies an instruction that is no jump, call or return. ok is false for one whose effect is not known here.
func (r *registers) step(inst x86asm.Inst) (ok bool) {
	to, from := inst.Args[0], inst.Args[1]
	switch inst.Op {
	case x86asm.NOP, x86asm.TEST, x86asm.CMP, x86asm.BT, x86asm.PUSH, x86asm.UD2, x86asm.INT,
		x86asm.MOVAPS, x86asm.MOVUPS, x86asm.MOVDQA, x86asm.MOVDQU, x86asm.MOVAPD, x86asm.MOVUPD,
		x86asm.PXOR, x86asm.XORPS, x86asm.MOVHPS, x86asm.MOVLPS, x86asm.PUNPCKLQDQ, x86asm.MOVSS, x86asm.MOVSD_XMM:
		// No general register is written; comparing is what flags are for.
	case x86asm.MOV:
		r.write(to, r.read(from))
	case x86asm.MOVSXD:
		v := r.read(from)
		if v.kind == constant {
			v.n = int64(int32(v.n))
		}
		r.write(to, v)
	case x86asm.CDQE:
		if v := r.read(x86asm.EAX); v.kind == extended {
			r[rax] = v
		} else {
			r[rax] = value{}
		}
	case x86asm.CDQ, x86asm.CQO:
		r[rdx] = value{}
	case x86asm.LEA:
		r.write(to, r.address(from))
	case x86asm.XOR, x86asm.SUB:
		switch {
		case to == from:
			r.write(to, value{kind: constant})
		case inst.Op == x86asm.SUB:
			r.write(to, r.moved(to, from))
		default:
			r.write(to, value{})
		}
	case x86asm.ADD:
		r.write(to, r.moved(to, from))
	case x86asm.AND:
		// An alignment of the stack leaves it the stack.
		if to == x86asm.RSP {
			r.write(to, r.moved(to, from))
		} else {
			r.write(to, value{})
		}
	case x86asm.OR:
		if imm, ok := from.(x86asm.Imm); ok && imm == -1 {
			r.write(to, value{constant, -1})
		} else {
			r.write(to, value{})
		}
	case x86asm.LEAVE:
		r[rsp], r[5] = value{kind: frame}, value{}
	case x86asm.POP, x86asm.MOVZX, x86asm.MOVSX, x86asm.NOT, x86asm.NEG, x86asm.INC, x86asm.DEC, x86asm.SHL, x86asm.SHR,
		x86asm.SAR, x86asm.ADC, x86asm.SBB, x86asm.MOVD, x86asm.MOVQ,
		x86asm.CMOVA, x86asm.CMOVAE, x86asm.CMOVB, x86asm.CMOVBE, x86asm.CMOVE, x86asm.CMOVG, x86asm.CMOVGE, x86asm.CMOVL,
		x86asm.CMOVLE, x86asm.CMOVNE, x86asm.CMOVNO, x86asm.CMOVNP, x86asm.CMOVNS, x86asm.CMOVO, x86asm.CMOVP, x86asm.CMOVS,
		x86asm.SETA, x86asm.SETAE, x86asm.SETB, x86asm.SETBE, x86asm.SETE, x86asm.SETG, x86asm.SETGE, x86asm.SETL,
		x86asm.SETLE, x86asm.SETNE, x86asm.SETNO, x86asm.SETNP, x86asm.SETNS, x86asm.SETO, x86asm.SETP, x86asm.SETS:
		r.write(to, value{})
	case x86asm.IMUL:
		if from == nil {
			r[rax], r[rdx] = value{}, value{}
		} else {
			r.write(to, value{})
		}
	default:
		return false
	}
	return true
}

// moved is an address in the frame after a constant was added to it or taken away.
func (r *registers) moved(to, by x86asm.Arg) value {
	if _, ok := by.(x86asm.Imm); ok && r.read(to).kind == frame {
		return value{kind: frame}
	}
	return value{}
}

// address is what LEA computes.
func (r *registers) address(a x86asm.Arg) value {
	m, ok := a.(x86asm.Mem)
	if !ok || m.Index != 0 || m.Segment != 0 {
		return value{}
	}
	if v := r.read(m.Base); v.kind == frame {
		return v
	}
	return value{}
}
