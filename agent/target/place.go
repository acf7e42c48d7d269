package target

import (
	"debug/elf"
	"slices"
)

// place chooses where in a function the probes go. The kernel emulates a push, but runs endbr64 out of line in
// single-step mode, which costs 5 to 8 times as much per call. Behind an endbr64 that precedes a push every argument
// and the return address are still where they were at the entry, so entry and return probes both work there.
func (im *image) place(entry uint64) uint64 {
	if im.machine != elf.EM_X86_64 {
		return entry
	}
	code := make([]byte, 6)
	if im.r.read(code, entry) != nil || !slices.Equal(code[:4], []byte{0xf3, 0x0f, 0x1e, 0xfa}) {
		return entry
	}
	const push, rexB = 0x50, 0x41 // push %rax..%rdi; with the prefix, push %r8..%r15
	isPush := func(c byte) bool { return c&^7 == push }
	if isPush(code[4]) || code[4] == rexB && isPush(code[5]) {
		return entry + 4
	}
	return entry
}
