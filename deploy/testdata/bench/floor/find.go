package main

import (
	"bytes"
	"debug/elf"
	"fmt"

	"golang.org/x/arch/x86/x86asm"
)

// deed is what a copying program does at a probe.
type deed uint8

const (
	remember     deed = iota // the buffer, at the entry of a call
	copyResult               // at the return: then the length is known
	copyArgument             // at the entry: the length is an argument
)

// probe is one place in the file and what lies there.
type probe struct {
	offset    uint64
	ofReturn  bool // a return probe of the function that begins there
	does      deed
	buffer    int16 // register with the buffer
	done      int16 // register with the address of the length that was moved; 0 = the call returns it
	goroutine bool
}

// text is the code of a file.
type text struct {
	*elf.File
	symbols map[string]elf.Symbol
}

func open(file string) (*text, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	t := &text{f, map[string]elf.Symbol{}}
	for _, list := range []func() ([]elf.Symbol, error){f.DynamicSymbols, f.Symbols} {
		found, err := list()
		if err != nil {
			continue // a file has one table or the other
		}
		for _, s := range found {
			if elf.ST_TYPE(s.Info) == elf.STT_FUNC && s.Value != 0 {
				t.symbols[s.Name] = s
			}
		}
	}
	return t, nil
}

// find says where the probes of the floor lie in a file.
func find(file, kind string, inner bool) ([]probe, error) {
	t, err := open(file)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if kind == "go" {
		return t.goProbes(inner)
	}
	var all []probe
	for _, name := range []string{"SSL_read", "SSL_write"} {
		p := probe{buffer: rsi}
		address, err := t.address(name)
		if err == nil && inner {
			if target, ok := t.callTarget(name + "_ex"); ok { // (ssl, buf, num, size_t *done), where SSL_read passes too
				address, p.done = target, rcx
			}
		}
		if err == nil {
			p.offset, err = t.offset(address)
		}
		if err != nil {
			return nil, err
		}
		back := p
		back.ofReturn, back.does = true, copyResult
		all = append(all, p, back)
	}
	return all, nil
}

func (t *text) address(name string) (uint64, error) {
	s, ok := t.symbols[name]
	if !ok {
		return 0, fmt.Errorf("no function %s", name)
	}
	return s.Value, nil
}

// callTarget is what a function calls first, if that begins with a push: only then is it cheaper.
func (t *text) callTarget(name string) (uint64, bool) {
	for at, inst := range t.code(t.symbols[name]) {
		if inst.Op != x86asm.CALL {
			continue
		}
		rel, ok := inst.Args[0].(x86asm.Rel)
		if !ok {
			continue
		}
		target := at + uint64(inst.Len) + uint64(int64(rel))
		for at, first := range t.code(elf.Symbol{Value: target, Size: 16}) {
			return at, first.Op == x86asm.PUSH
		}
	}
	return 0, false
}

// goProbes: a goroutine's stack moves, so returns are caught at the return instructions. What is written is an argument.
func (t *text) goProbes(inner bool) ([]probe, error) {
	var all []probe
	for name, p := range map[string]probe{
		"crypto/tls.(*Conn).Read":  {buffer: rbx, goroutine: true},
		"crypto/tls.(*Conn).Write": {buffer: rbx, goroutine: true, does: copyArgument},
	} {
		entry, err := t.address(name)
		if err != nil {
			return nil, err
		}
		place := entry
		for at, inst := range t.code(t.symbols[name]) {
			if inner && place == entry && inst.Op == x86asm.PUSH && at < entry+32 { // behind the check of the stack
				place = at
			}
			if inst.Op == x86asm.RET && p.does == remember {
				back := p
				back.does = copyResult
				if back.offset, err = t.offset(at); err != nil {
					return nil, err
				}
				all = append(all, back)
			}
		}
		if p.offset, err = t.offset(place); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

var endbr64 = []byte{0xf3, 0x0f, 0x1e, 0xfa}

// code decodes a function from its first instruction on; a mark for indirect branches is left out.
func (t *text) code(s elf.Symbol) func(yield func(uint64, x86asm.Inst) bool) {
	return func(yield func(uint64, x86asm.Inst) bool) {
		if t.Machine != elf.EM_X86_64 || s.Size == 0 {
			return
		}
		offset, err := t.offset(s.Value)
		if err != nil {
			return
		}
		code := make([]byte, s.Size)
		for _, p := range t.Progs {
			if p.Type == elf.PT_LOAD && offset >= p.Off && offset < p.Off+p.Filesz {
				if n, _ := p.ReadAt(code, int64(offset-p.Off)); n < len(code) {
					code = code[:n]
				}
			}
		}
		at := 0
		if bytes.HasPrefix(code, endbr64) { // x86asm does not know it
			at = len(endbr64)
		}
		for at < len(code) {
			inst, err := x86asm.Decode(code[at:], 64)
			if err != nil || !yield(s.Value+uint64(at), inst) {
				return
			}
			at += inst.Len
		}
	}
}

// offset is where in the file an address is.
func (t *text) offset(address uint64) (uint64, error) {
	for _, p := range t.Progs {
		if p.Type == elf.PT_LOAD && address >= p.Vaddr && address < p.Vaddr+p.Filesz {
			return address - p.Vaddr + p.Off, nil
		}
	}
	return 0, fmt.Errorf("address %#x is in no segment of the file", address)
}
