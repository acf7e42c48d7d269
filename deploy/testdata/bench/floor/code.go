package main

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
)

// Offsets in struct pt_regs of x86-64.
const (
	r14 = 8
	rbx = 40
	rax = 80
	rcx = 88
	rsi = 104
)

// The stack of a program: the key of a call and what is kept of it.
const (
	atKey    = -8
	atDone   = -16
	atBuffer = -24
	atLength = -32
)

// sizes are those of a record's payload: the verifier wants to know at load time what is reserved.
var sizes = []int32{64, 256, 1024, 4096, 16384}

func (c *capture) program(p probe) asm.Instructions {
	code := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	switch p.does {
	case remember:
		code = append(code, p.key()...)
		code = append(code,
			asm.LoadMem(asm.R1, asm.R6, p.buffer, asm.DWord),
			asm.StoreMem(asm.R10, atBuffer, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R1, 0),
		)
		if p.done != 0 {
			code = append(code, asm.LoadMem(asm.R1, asm.R6, p.done, asm.DWord))
		}
		code = append(code,
			asm.StoreMem(asm.R10, atDone, asm.R1, asm.DWord),
			asm.LoadMapPtr(asm.R1, c.calls.FD()),
			asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, atKey),
			asm.Mov.Reg(asm.R3, asm.R10), asm.Add.Imm(asm.R3, atBuffer),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnMapUpdateElem.Call(),
		)
	case copyResult:
		code = append(code, p.key()...)
		code = append(code, c.forget()...)
		code = append(code, asm.LoadMem(asm.R9, asm.R6, rax, asm.DWord))
		if p.key32() {
			code = append(code, asm.LSh.Imm(asm.R9, 32), asm.ArSh.Imm(asm.R9, 32))
		}
		code = append(code,
			asm.JSLE.Imm(asm.R9, 0, "end"),
			asm.JEq.Imm(asm.R8, 0, "copy"),
			asm.Mov.Reg(asm.R1, asm.R10), asm.Add.Imm(asm.R1, atLength),
			asm.Mov.Imm(asm.R2, 8),
			asm.Mov.Reg(asm.R3, asm.R8),
			asm.FnProbeReadUser.Call(),
			asm.JNE.Imm(asm.R0, 0, "end"),
			asm.LoadMem(asm.R9, asm.R10, atLength, asm.DWord),
			asm.JSLE.Imm(asm.R9, 0, "end"),
			asm.Mov.Reg(asm.R9, asm.R9).WithSymbol("copy"),
		)
		code = append(code, c.copy()...)
	case copyArgument:
		code = append(code,
			asm.LoadMem(asm.R7, asm.R6, p.buffer, asm.DWord),
			asm.LoadMem(asm.R9, asm.R6, rcx, asm.DWord),
			asm.JSLE.Imm(asm.R9, 0, "end"),
		)
		code = append(code, c.copy()...)
	}
	return append(code, asm.Mov.Imm(asm.R0, 0).WithSymbol("end"), asm.Return())
}

// key puts on the stack what tells one call from another that goes on at the same time: the thread, or Go's goroutine.
func (p probe) key() asm.Instructions {
	code := asm.Instructions{asm.FnGetCurrentPidTgid.Call()}
	if p.goroutine {
		code = asm.Instructions{asm.LoadMem(asm.R0, asm.R6, r14, asm.DWord)}
	}
	return append(code, asm.StoreMem(asm.R10, atKey, asm.R0, asm.DWord))
}

// key32 reports whether the function returns an int of C.
func (p probe) key32() bool { return !p.goroutine }

// forget takes the call out of the map: R7 = buffer, R8 = where the length is told, or 0.
func (c *capture) forget() asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, c.calls.FD()),
		asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, atKey),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.LoadMem(asm.R7, asm.R0, 0, asm.DWord),
		asm.LoadMem(asm.R8, asm.R0, 8, asm.DWord),
		asm.LoadMapPtr(asm.R1, c.calls.FD()),
		asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, atKey),
		asm.FnMapDeleteElem.Call(),
	}
}

// copy reserves the smallest record that holds R9 bytes, reads them from R7, and wakes nobody.
func (c *capture) copy() (code asm.Instructions) {
	for i, size := range sizes {
		fits := asm.JGT.Imm(asm.R9, size, fmt.Sprint("over", size))
		if i == len(sizes)-1 {
			code = append(code, asm.JLE.Imm(asm.R9, size, "all").WithSymbol(before(i)), asm.Mov.Imm(asm.R9, size))
			fits = asm.Mov.Reg(asm.R9, asm.R9).WithSymbol("all")
		} else if i > 0 {
			fits = fits.WithSymbol(before(i))
		}
		code = append(code, fits,
			asm.LoadMapPtr(asm.R1, c.ring.FD()),
			asm.Mov.Imm(asm.R2, size+8),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnRingbufReserve.Call(),
			asm.JEq.Imm(asm.R0, 0, "full"),
			asm.Mov.Reg(asm.R8, asm.R0),
			asm.StoreMem(asm.R8, 0, asm.R9, asm.DWord),
			asm.Mov.Reg(asm.R1, asm.R8), asm.Add.Imm(asm.R1, 8),
			asm.Mov.Reg(asm.R2, asm.R9),
			asm.Mov.Reg(asm.R3, asm.R7),
			asm.FnProbeReadUser.Call(),
			asm.Mov.Reg(asm.R1, asm.R8),
			asm.Mov.Imm(asm.R2, 1), // BPF_RB_NO_WAKEUP
			asm.FnRingbufSubmit.Call(),
			asm.Ja.Label("end"),
		)
	}
	return append(code,
		asm.StoreImm(asm.R10, atLength, 0, asm.Word).WithSymbol("full"),
		asm.LoadMapPtr(asm.R1, c.lost.FD()),
		asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, atLength),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
	)
}

func before(i int) string { return fmt.Sprint("over", sizes[i-1]) }
