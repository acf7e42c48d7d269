package target

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// goFrame is what Go compiles for amd64: the check of the stack, a frame, one return, and the growth of the stack.
func goFrame() []byte {
	return []byte{
		0x49, 0x3b, 0x66, 0x10, // CMPQ SP, 16(R14)
		0x76, 0x0d, // JLS more
		0x55,             // PUSHQ BP
		0x48, 0x89, 0xe5, // MOVQ SP, BP
		0x48, 0x83, 0xec, 0x20, // SUBQ $32, SP
		0x48, 0x83, 0xc4, 0x20, // ADDQ $32, SP
		0x5d,       // POPQ BP
		0xc3,       // RET
		0xeb, 0xea, // more: JMP to the entry
		0xcc, 0xcc, // padding
	}
}

// tinyGo is a Go program of a page of code, a page of tables and a page of data, without sections.
type tinyGo struct {
	magic     uint32
	code      []byte
	functions []string
	textStart uint64 // in the header of the line table
	module    bool   // with module data
	broken    func(image []byte)
}

const (
	tinyBase  = 0x400000
	tinyText  = tinyBase + 0x1040 // the text base; the first function follows 16 bytes behind it
	tinyTable = 0x2000
	tinyData  = 0x3000
)

func (p tinyGo) build() []byte {
	image := make([]byte, 0x4000)
	le := binary.LittleEndian
	copy(image, elf.ELFMAG)
	image[elf.EI_CLASS], image[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	le.PutUint16(image[18:], uint16(elf.EM_X86_64))
	le.PutUint64(image[32:], 64)
	le.PutUint16(image[54:], 56)
	le.PutUint16(image[56:], 3)
	for i, flags := range []elf.ProgFlag{elf.PF_R | elf.PF_X, elf.PF_R, elf.PF_R | elf.PF_W} {
		at, offset := image[64+i*56:], uint64(i+1)*0x1000
		le.PutUint32(at, uint32(elf.PT_LOAD))
		le.PutUint32(at[4:], uint32(flags))
		for field, value := range map[int]uint64{8: offset, 16: tinyBase + offset, 32: 0x1000, 40: 0x1000} {
			le.PutUint64(at[field:], value)
		}
	}
	table := image[tinyTable:]
	le.PutUint32(table, p.magic)
	table[6], table[7] = 1, 8
	le.PutUint64(table[8:], uint64(len(p.functions)))
	le.PutUint64(table[24:], p.textStart)
	names := strings.Join(p.functions, "\x00") + "\x00"
	copy(table[72:], names)
	functab := uint64(72+len(names)+15) &^ 15
	for field, value := range map[int]uint64{32: 72, 40: 72 + uint64(len(names)), 64: functab} {
		le.PutUint64(table[field:], value)
	}
	entry, name, records := uint32(16), uint32(0), uint32(len(p.functions)*8+8)
	for i, function := range p.functions {
		copy(image[tinyText-tinyBase+uint64(entry):], p.code)
		le.PutUint32(table[functab+uint64(i)*8:], entry)
		le.PutUint32(table[functab+uint64(i)*8+4:], records+uint32(i)*8)
		le.PutUint32(table[functab+uint64(records)+uint64(i)*8:], entry)
		le.PutUint32(table[functab+uint64(records)+uint64(i)*8+4:], name)
		entry += uint32(len(p.code))
		name += uint32(len(function)) + 1
	}
	le.PutUint32(table[functab+uint64(len(p.functions))*8:], entry)
	data := image[tinyData:]
	copy(data, buildInfoMagic)
	if p.module {
		module := data[0x200:]
		le.PutUint64(module[moduleHeader:], tinyBase+tinyTable)
		le.PutUint64(module[moduleMinPC:], tinyText+16)
		le.PutUint64(module[moduleMaxPC:], tinyText+uint64(entry))
		le.PutUint64(module[moduleText:], tinyText)
	}
	if p.broken != nil {
		p.broken(image)
	}
	return image
}

func tiny125() tinyGo {
	names := []string{"main.main", "vendor/crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Write"}
	return tinyGo{magic: lineTableMagic, code: goFrame(), functions: names, textStart: tinyText}
}

func tiny126() tinyGo {
	p := tiny125()
	p.textStart, p.module = 0, true
	return p
}

func programOf(t *testing.T, image []byte) (Carried, bool) {
	t.Helper()
	f, err := InspectProgram(bytes.NewReader(image), Libraries(), slow())
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Carried) == 0 {
		return Carried{}, false
	}
	return f.Carried[0], true
}

func native(t *testing.T) {
	t.Helper()
	if nativeMachine() != elf.EM_X86_64 {
		t.Skip("the tiny program is one of amd64")
	}
}

func TestTextBase(t *testing.T) {
	native(t)
	first := uint64(tinyText - tinyBase + 16)
	size := uint64(len(goFrame()))
	for name, p := range map[string]tinyGo{"1.25": tiny125(), "1.26": tiny126()} {
		c, ok := programOf(t, p.build())
		if !ok || c.Problem != nil || len(c.Sites) != 2 {
			t.Fatalf("%s: %+v", name, c)
		}
		// Read is the third function, behind one whose name ends with its own.
		if got := c.Sites[0]; got.Offset != first+2*size+6 || !slices.Equal(got.Returns, []uint64{first + 2*size + 19}) {
			t.Errorf("%s: %+v", name, got)
		}
		if got := c.Sites[1]; got.Offset != first+3*size+6 || got.Returns != nil || got.Exit != "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestNoSiteWithoutProof(t *testing.T) {
	native(t)
	le := binary.LittleEndian
	edit := func(p tinyGo, broken func(image []byte)) tinyGo { p.broken = broken; return p }
	frame := func(edit func(code []byte) []byte) tinyGo { p := tiny125(); p.code = edit(goFrame()); return p }
	at := func(i int, bytes ...byte) tinyGo {
		return frame(func(code []byte) []byte { copy(code[i:], bytes); return code })
	}
	for name, c := range map[string]struct {
		program tinyGo
		want    string
	}{
		"header of Go 1.15":            {edit(tiny125(), func(b []byte) { le.PutUint32(b[tinyTable:], lineTableMagic2) }), "not found"},
		"no module data":               {edit(tiny126(), func(b []byte) { clear(b[tinyData+0x200 : tinyData+0x400]) }), "where its code begins"},
		"module data of other code":    {edit(tiny126(), func(b []byte) { b[tinyData+0x200+moduleMaxPC]++ }), "where its code begins"},
		"text base outside of code":    {edit(tiny125(), func(b []byte) { le.PutUint64(b[tinyTable+24:], tinyBase+tinyData) }), "where its code begins"},
		"text base off by some":        {edit(tiny125(), func(b []byte) { le.PutUint64(b[tinyTable+24:], tinyText-3) }), "stack check"},
		"functions without end":        {edit(tiny125(), func(b []byte) { le.PutUint64(b[tinyTable+8:], 1<<40) }), "not found"},
		"names behind the functions":   {edit(tiny125(), func(b []byte) { le.PutUint64(b[tinyTable+40:], 0xf00) }), "not found"},
		"compares with something else": {at(3, 0x18), "stack check"},
		"branches backwards":           {at(5, 0x80), "stack check"},
		"compares and does not branch": {at(4, 0x90, 0x90), "stack check"},
		"writes an argument first":     {frame(func(c []byte) []byte { return append([]byte{0x31, 0xc0}, c...) }), "stack check"},
		"pushes something else":        {at(6, 0x53), "stack check"},
		"moves SP first":               {at(6, 0x50, 0x55), "stack check"},
		"makes no frame":               {at(6, 0x90), "stack check"},
		"returns without its frame":    {at(18, 0x90), "does not end a frame"},
		"returns and pops":             {at(18, 0x5d, 0xc2, 0x08, 0x00), "does not end a frame"},
		"does not return":              {at(19, 0x90), "could not be told"},
		"leaves by a jump":             {at(20, 0xeb, 0x40), "a jump leads to"},
		"jumps into an instruction":    {at(20, 0xeb, 0xeb), "a jump leads to"},
		"an instruction nobody knows":  {at(10, 0x0f, 0x0b, 0x62, 0x06), "is not known"},
	} {
		c2, ok := programOf(t, c.program.build())
		if !ok || c2.Problem == nil || !strings.Contains(c2.Problem.Error(), c.want) || len(c2.Sites) > 0 || strings.Contains(c2.Problem.Error(), "\n") {
			t.Errorf("%s: %+v, want a problem with %q", name, c2, c.want)
		}
	}
}

func TestStackChecksOfEachFrame(t *testing.T) {
	tail := []byte{0x55, 0x48, 0x89, 0xe5, 0x5d, 0x90, 0xc3, 0x90}
	for name, head := range map[string][]byte{
		"small":      {0x49, 0x3b, 0x66, 0x10, 0x76, 0x05},
		"medium":     {0x4c, 0x8d, 0x64, 0x24, 0xb8, 0x4d, 0x3b, 0x66, 0x10, 0x0f, 0x86, 5, 0, 0, 0},
		"medium, 32": {0x4c, 0x8d, 0xa4, 0x24, 0xc8, 0xfe, 0xff, 0xff, 0x4d, 0x3b, 0x66, 0x10, 0x0f, 0x86, 5, 0, 0, 0},
		"large":      {0x49, 0x89, 0xe4, 0x49, 0x81, 0xec, 0, 0x20, 0, 0, 0x72, 0x0b, 0x4d, 0x3b, 0x66, 0x10, 0x0f, 0x86, 5, 0, 0, 0},
	} {
		enter, returns, err := decodeX86(append(slices.Clone(head), tail...))
		if err != nil || enter != len(head) || !slices.Equal(returns, []int{len(head) + 6}) {
			t.Errorf("%s: %d, %v, %v", name, enter, returns, err)
		}
	}
}

func TestFramesOfGo120(t *testing.T) {
	head := []byte{0x49, 0x3b, 0x66, 0x10, 0x76, 0} // branches to the last instruction
	code := func(frame, end []byte) []byte {
		code := slices.Concat(head, frame, []byte{0x48, 0x89, 0x6c, 0x24, 0x18}, end, []byte{0x90, 0xc3, 0x90})
		code[5] = byte(len(code) - 1 - len(head))
		return code
	}
	for name, c := range map[string]struct {
		code []byte
		ret  int // 0 = no site
	}{
		"SUBQ $32, SP; ADDQ $32, SP":         {code([]byte{0x48, 0x83, 0xec, 0x20}, []byte{0x48, 0x83, 0xc4, 0x20}), 20},
		"ADDQ $-128, SP; SUBQ $-128, SP":     {code([]byte{0x48, 0x83, 0xc4, 0x80}, []byte{0x48, 0x83, 0xec, 0x80}), 20},
		"SUBQ $256, SP; ADDQ $256, SP":       {code([]byte{0x48, 0x81, 0xec, 0, 1, 0, 0}, []byte{0x48, 0x81, 0xc4, 0, 1, 0, 0}), 26},
		"SUBQ $32, SP; ADDQ $24, SP":         {code([]byte{0x48, 0x83, 0xec, 0x20}, []byte{0x48, 0x83, 0xc4, 0x18}), 0},
		"ADDQ $32, SP; SUBQ $32, SP":         {code([]byte{0x48, 0x83, 0xc4, 0x20}, []byte{0x48, 0x83, 0xec, 0x20}), 0},
		"SUBQ $32, SP; POPQ BP without push": {code([]byte{0x48, 0x83, 0xec, 0x20}, []byte{0x5d}), 0},
	} {
		enter, returns, err := decodeX86(c.code)
		if c.ret == 0 && err == nil || c.ret != 0 && (err != nil || enter != len(head) || !slices.Equal(returns, []int{c.ret})) {
			t.Errorf("%s: %d, %v, %v", name, enter, returns, err)
		}
	}
}

func TestARM64(t *testing.T) {
	code := func(words ...uint32) (b []byte) {
		for _, w := range words {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
		return b
	}
	const guard, cmpSP, subR17, cmpR17, bls = 0xf9400b90, 0xeb3063ff, 0xd10143f1, 0xeb10023f, 0x54000089 // BLS 4 words ahead
	const push, pop, add, ret, nop = 0xf8190ffe, 0xf84707fe, 0x9101c3ff, 0xd65f03c0, 0xd503201f
	for name, c := range map[string]struct {
		code    []byte
		enter   int
		returns []int
	}{
		"small frame":               {code(guard, cmpSP, bls, push, pop, ret, nop), 12, []int{20}},
		"medium frame, Go 1.21":     {code(guard, subR17, cmpR17, bls, push, add, nop, ret, nop), 16, []int{28}},
		"another guard":             {code(guard+0x400, cmpSP, bls, push, pop, ret, nop), 0, nil},
		"another condition":         {code(guard, cmpSP, bls+1, push, pop, ret, nop), 0, nil},
		"branches out":              {code(guard, cmpSP, bls, push, pop, ret), 0, nil},
		"returns without its frame": {code(guard, cmpSP, bls, push, nop, ret, nop), 0, nil},
		"returns elsewhere":         {code(guard, cmpSP, bls, push, pop, ret+0x20, nop), 0, nil},
		"leaves by a jump":          {code(guard, cmpSP, bls, push, pop, ret, 0x14000004), 0, nil},
		"does not return":           {code(guard, cmpSP, bls, push, pop, nop, nop), 0, nil},
		"empty":                     {nil, 0, nil},
	} {
		enter, returns, err := decodeARM64(c.code)
		if enter != c.enter || !slices.Equal(returns, c.returns) || (err == nil) != (c.returns != nil) {
			t.Errorf("%s: %d, %v, %v", name, enter, returns, err)
		}
	}
}

func FuzzGoProgram(f *testing.F) {
	old := tiny125()
	old.magic = lineTableMagic18
	for _, p := range []tinyGo{tiny125(), tiny126(), old} {
		f.Add(p.build())
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		const allowed = 4 << 20
		src := &endless{head: image}
		began := time.Now()
		facts, err := InspectProgram(src, Libraries(), Budget{Bytes: allowed, Time: 100 * time.Millisecond})
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("took %v of 100 ms allowed", took)
		}
		if src.read > 3*allowed { // for the head and for each entry
			t.Errorf("%d bytes were read", src.read)
		}
		if err != nil && !errors.Is(err, ErrNotELF) && !errors.Is(err, ErrBudget) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("an error of no kind: %v", err)
		}
		for _, c := range facts.Carried {
			if (c.Problem == nil) == (len(c.Sites) == 0) {
				t.Errorf("neither sites nor a problem, or both: %+v", c)
			}
		}
	})
}
