package target

import (
	"debug/elf"
	"encoding/binary"
	"strings"

	"golang.org/x/arch/x86/x86asm"
)

const maxInstruction = 15 // bytes, on amd64

// codeAt reads the instruction at an offset in the file: fewer bytes than asked for at the end of the file.
func (im *image) codeAt(offset uint64) ([]byte, error) {
	code := make([]byte, maxInstruction)
	for n := len(code); n > 0; n-- {
		err := im.r.read(code[:n], offset)
		if err == nil {
			return code[:n], nil
		}
		if notBudget(err) != nil {
			return nil, err
		}
	}
	return nil, nil
}

// placeAt says what the instruction at an offset is, and what a probe there costs.
func (im *image) placeAt(offset uint64) (Place, error) {
	code, err := im.codeAt(offset)
	if err != nil {
		return Place{}, err
	}
	p := Place{Offset: offset}
	if im.machine == elf.EM_AARCH64 {
		p.Name, p.Class = classARM64(code)
	} else {
		p.Name, p.Class = classX86(code)
	}
	return p, nil
}

// endbr64 begins what may be called or jumped to by address (Intel CET). The decoder does not know it.
const endbr64 = "\xf3\x0f\x1e\xfa"

// classX86 names an instruction and says what arch/x86/kernel/uprobes.c does with it (branch_setup_xol_ops and, since
// Linux 5.0, push_setup_xol_ops). What is not surely emulated counts as single-stepped.
func classX86(code []byte) (name string, class Class) {
	if strings.HasPrefix(string(code), endbr64) {
		return "endbr64", SingleStep
	}
	inst, ok := decodeOne(code)
	if !ok {
		return "", Unknown
	}
	name = strings.ToLower(inst.Op.String())
	at := code[:inst.Len]
	// The kernel takes a branch with most prefixes, but not with 0x66; and it takes a push with no other than REX.B.
	first := at
	for len(first) > 1 && strings.IndexByte("\xf2\x3e\x2e\x36", first[0]) >= 0 {
		first = first[1:]
	}
	switch c := first[0]; {
	case c == 0xe8, c == 0xe9, c == 0xeb, c&0xf0 == 0x70: // call, jmp, jcc
		return name, Emulated
	case c == 0x0f && len(first) > 1 && first[1]&0xf0 == 0x80: // jcc
		return name, Emulated
	case isPush(at), isNop(at):
		return name, Emulated
	}
	return name, SingleStep
}

// decodeOne decodes an instruction. For one that is cut, or consists of prefixes, the decoder gives an instruction without
// an operation, and no error.
func decodeOne(code []byte) (x86asm.Inst, bool) {
	inst, err := x86asm.Decode(code, 64)
	return inst, err == nil && inst.Op != 0
}

func isPush(code []byte) bool {
	const push, rexB = 0x50, 0x41 // push %rax..%rdi; with the prefix, push %r8..%r15
	return len(code) == 1 && code[0]&^7 == push || len(code) == 2 && code[0] == rexB && code[1]&^7 == push
}

// isNop knows the kernel's own nops (x86_nops). Those of more than two bytes are emulated since Linux 6.17, before it
// they were single-stepped.
func isNop(code []byte) bool {
	switch string(code) {
	case "\x90", "\x66\x90",
		"\x0f\x1f\x00", "\x0f\x1f\x40\x00", "\x0f\x1f\x44\x00\x00", "\x66\x0f\x1f\x44\x00\x00",
		"\x0f\x1f\x80\x00\x00\x00\x00", "\x0f\x1f\x84\x00\x00\x00\x00\x00":
		return true
	}
	return false
}

// classARM64 does the same for arch/arm64/kernel/probes/decode-insn.c. Every instruction has 4 bytes (Arm ARM, C4).
func classARM64(code []byte) (name string, class Class) {
	if len(code) < 4 {
		return "", Unknown
	}
	w := binary.LittleEndian.Uint32(code)
	for _, simulated := range []struct {
		mask, value uint32
		name        string
	}{
		{0x7c000000, 0x14000000, "b"}, // and bl
		{0xff000010, 0x54000000, "b.cond"},
		{0x7e000000, 0x34000000, "cbz"},   // and cbnz
		{0x7e000000, 0x36000000, "tbz"},   // and tbnz
		{0x1f000000, 0x10000000, "adr"},   // and adrp
		{0xbf000000, 0x18000000, "ldr"},   // of a literal
		{0xff000000, 0x98000000, "ldrsw"}, // of a literal
		{0xff9ffc1f, 0xd61f0000, "ret"},   // and br, blr
		{0xffffffff, 0xd503201f, "nop"},   // since Linux 6.13
	} {
		if w&simulated.mask == simulated.value {
			return simulated.name, Emulated
		}
	}
	return "another instruction", SingleStep
}
