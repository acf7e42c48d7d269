package target

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// openSSL30 is how Debian 12's compiler writes OpenSSL 3.0, a line for an instruction: its bytes, or a branch to a label.
const openSSL30 = `
SSL_read:
	48 83 ec 18           # sub $0x18,%rsp
	85 d2                 # test %edx,%edx
	js .negative
	48 89 e1              # mov %rsp,%rcx
	48 63 d2              # movslq %edx,%rdx
	call ssl_read_internal
	85 c0                 # test %eax,%eax
	jle .done
	8b 04 24              # mov (%rsp),%eax
.done:
	48 83 c4 18           # add $0x18,%rsp
	c3                    # ret
.negative:
	call ERR_new
	b8 ff ff ff ff        # mov $-1,%eax
	jmp .done
SSL_read_ex:
	48 83 ec 08           # sub $8,%rsp
	call ssl_read_internal
	31 d2                 # xor %edx,%edx
	85 c0                 # test %eax,%eax
	0f 48 c2              # cmovs %edx,%eax
	48 83 c4 08           # add $8,%rsp
	c3                    # ret
SSL_peek:
	48 83 ec 18           # sub $0x18,%rsp
	48 89 e1              # mov %rsp,%rcx
	call ssl_peek_internal
	48 83 c4 18           # add $0x18,%rsp
	c3                    # ret
ssl_read_internal:
	53                    # push %rbx
	c3                    # ret
ssl_peek_internal:
	53                    # push %rbx
	c3                    # ret
ERR_new:
	31 c0                 # xor %eax,%eax
	c3                    # ret
`

const codeBase = 0x401000

// assemble puts bytes and branches together. Functions begin at 16 bytes; what begins with a dot is a label in one.
func assemble(t testing.TB, text string) (code []byte, found map[string]function) {
	t.Helper()
	branches := map[string]string{"call": "e8", "jmp": "e9", "js": "0f88", "jle": "0f8e", "je": "0f84"}
	labels, from := map[string]int{}, map[int]string{}
	found, name := map[string]function{}, ""
	end := func() {
		if f, ok := found[name]; ok {
			f.size = codeBase + uint64(len(code)) - f.address
			found[name] = f
		}
	}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case strings.HasSuffix(fields[0], ":") && line[0] != '.':
			end()
			for len(code)%16 != 0 {
				code = append(code, 0xcc)
			}
			name = strings.TrimSuffix(fields[0], ":")
			labels[name] = len(code)
			found[name] = function{address: codeBase + uint64(len(code)), offset: uint64(len(code))}
		case line[0] == '.':
			labels[name+strings.TrimSuffix(fields[0], ":")] = len(code)
		case branches[fields[0]] != "":
			op, _ := hex.DecodeString(branches[fields[0]])
			code = append(append(code, op...), 0, 0, 0, 0)
			to := fields[1]
			if to[0] == '.' {
				to = name + to
			}
			from[len(code)] = to
		default:
			more, err := hex.DecodeString(strings.Join(fields, ""))
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			code = append(code, more...)
		}
	}
	end()
	for at, to := range from {
		distance := 0x1000000 - at // far outside of the code
		if to != "nowhere" {
			target, ok := labels[to]
			if !ok {
				t.Fatalf("no label %s", to)
			}
			distance = target - at
		}
		binary.LittleEndian.PutUint32(code[at-4:], uint32(distance))
	}
	return code, found
}

func codeImage(code []byte, b Budget) *image {
	return &image{
		r: newBounded(bytes.NewReader(code), b), machine: elf.EM_X86_64,
		segments: []segment{{kind: uint32(elf.PT_LOAD), flags: uint32(elf.PF_R | elf.PF_X), address: codeBase, size: uint64(len(code)), inMem: uint64(len(code))}},
	}
}

// surveyed is what a file with this code and these symbols would give.
func surveyed(t testing.TB, text string) (survey, map[string]function) {
	t.Helper()
	code, all := assemble(t, text)
	s, err := codeImage(code, slow()).survey(func(names []string) (map[string]function, error) {
		found := map[string]function{}
		for _, name := range names {
			if f, ok := all[name]; ok {
				found[name] = f
			}
		}
		return found, nil
	}, []string{"SSL_read", "SSL_write", "SSL_read_ex", "SSL_write_ex", "SSL_write_ex2"})
	if err != nil {
		t.Fatal(err)
	}
	return s, all
}

func TestInside(t *testing.T) {
	// The static function has no name in a stripped library.
	stripped := strings.ReplaceAll(openSSL30, "ssl_read_internal", "f")
	for name, tc := range map[string]struct{ text, want string }{
		"stripped":      {stripped, "call target of SSL_read_ex"},
		"named":         {openSSL30, "ssl_read_internal, call target of SSL_read_ex"},
		"endbr64":       {strings.Replace(stripped, "\nf:\n", "\nf:\n\tf3 0f 1e fa # endbr64\n", 1), "call target of SSL_read_ex"},
		"r12":           {strings.Replace(stripped, "\nf:\n\t53  ", "\nf:\n\t41 54", 1), "call target of SSL_read_ex"},
		"by a register": {strings.Replace(stripped, "\t48 89 e1              # mov %rsp,%rcx", "\t48 8d 44 24 08 # lea 8(%rsp),%rax\n\t48 89 c1 # mov %rax,%rcx", 1), "call target of SSL_read_ex"},
		"kept": {strings.Replace(stripped, "\t48 89 e1 ", "\t48 89 fb # mov %rdi,%rbx\n\t48 89 f5 # mov %rsi,%rbp\n\t4c 63 e2 # movslq %edx,%r12\n\tcall ERR_new\n"+
			"\t48 89 df # mov %rbx,%rdi\n\t48 89 ee # mov %rbp,%rsi\n\t44 89 e2 # mov %r12d,%edx\n\t48 89 e1 ", 1), "call target of SSL_read_ex"},
		"returns 0":  {strings.Replace(stripped, "b8 ff ff ff ff        # mov $-1,%eax", "31 c0 # xor %eax,%eax", 1), "call target of SSL_read_ex"},
		"or -1":      {strings.Replace(stripped, "b8 ff ff ff ff        # mov $-1,%eax", "83 c8 ff # or $-1,%eax", 1), "call target of SSL_read_ex"},
		"a cold end": {strings.Replace(stripped, "b8 ff ff ff ff        # mov $-1,%eax\n\tjmp .done\n", "", 1), "call target of SSL_read_ex"},
	} {
		t.Run(name, func(t *testing.T) {
			s, all := surveyed(t, tc.text)
			target, ok := all["f"]
			if !ok {
				target = all["ssl_read_internal"]
			}
			if name == "endbr64" {
				target.offset += 4
			}
			for _, symbol := range []string{"SSL_read", "SSL_read_ex"} {
				in := s.inside[symbol]
				want := Place{Name: tc.want, Offset: target.offset, Class: Emulated, Enter: "ssl_read_ex_enter", Exit: "ssl_read_ex_exit"}
				if in.Place != want || in.Refused != "" {
					t.Errorf("%s: %+v, want %+v", symbol, in, want)
				}
				if s.places[symbol].Class != SingleStep || s.places[symbol].Name != "sub" {
					t.Errorf("%s: %+v", symbol, s.places[symbol])
				}
			}
		})
	}
}

// openSSL36 is how Debian's compiler writes what OpenSSL 3.6 writes with.
const openSSL36 = `
SSL_write:
	48 83 ec 18           # sub $0x18,%rsp
	85 d2                 # test %edx,%edx
	js .negative
	31 c9                 # xor %ecx,%ecx
	89 d2                 # mov %edx,%edx
	49 89 e0              # mov %rsp,%r8
	call f
	85 c0                 # test %eax,%eax
	0f 4f 04 24           # cmovg (%rsp),%eax
.done:
	48 83 c4 18           # add $0x18,%rsp
	c3                    # ret
.negative:
	b8 ff ff ff ff        # mov $-1,%eax
	jmp .done
SSL_write_ex2:
	48 83 ec 08           # sub $8,%rsp
	call f
	48 83 c4 08           # add $8,%rsp
	c3                    # ret
SSL_write_ex:
	49 89 c8              # mov %rcx,%r8
	31 c9                 # xor %ecx,%ecx
	jmp SSL_write_ex2
f:
	53                    # push %rbx
	c3                    # ret
`

func TestInsideWithFlags(t *testing.T) {
	s, all := surveyed(t, openSSL36)
	want := Inside{Place: Place{Name: "call target of SSL_write_ex2", Offset: all["f"].offset, Class: Emulated, Enter: "ssl_write_ex2_enter", Exit: "ssl_write_ex_exit"}}
	for _, symbol := range []string{"SSL_write", "SSL_write_ex", "SSL_write_ex2"} {
		if in := s.inside[symbol]; in != want {
			t.Errorf("%s: %+v, want %+v", symbol, in, want)
		}
	}
	for name, spoilt := range map[string]string{
		"flags are not 0":     strings.Replace(openSSL36, "31 c9                 # xor %ecx,%ecx\n\t89", "b9 01 00 00 00 # mov $1,%ecx\n\t89", 1),
		"no address":          strings.Replace(openSSL36, "49 89 e0              # mov %rsp,%r8", "45 31 c0 # xor %r8d,%r8d", 1),
		"another's arguments": strings.Replace(openSSL36, "48 83 ec 08           # sub", "45 31 c0 # xor %r8d,%r8d\n\t48 83 ec 08 # sub", 1),
		"no second witness":   strings.ReplaceAll(openSSL36, "SSL_write_ex2", "another"),
	} {
		s, _ := surveyed(t, spoilt)
		if in := s.inside["SSL_write"]; in.Refused == "" || in.Place != (Place{}) {
			t.Errorf("%s: %+v", name, in)
		}
	}
	// The third function may go elsewhere; then it stays as it is.
	s, _ = surveyed(t, strings.Replace(openSSL36, "49 89 c8              # mov %rcx,%r8", "90 # nop", 1))
	if in := s.inside["SSL_write_ex"]; in.Refused == "" || s.inside["SSL_write"] != want {
		t.Errorf("%+v, and SSL_write %+v", in, s.inside["SSL_write"])
	}
}

// TestInsideRefused spoils one thing at a time: each must keep the probes at the entry.
func TestInsideRefused(t *testing.T) {
	const (
		toInternal = "\tcall ssl_read_internal\n\t85 c0 "
		exCalls    = "48 83 ec 08           # sub $8,%rsp\n\tcall ssl_read_internal"
		popped     = "ssl_read_internal:\n\t53                    # push %rbx"
	)
	for name, tc := range map[string]struct{ old, new, says string }{
		"rdi was written":           {toInternal, "\t48 89 c7 # mov %rax,%rdi\n" + toInternal, "no single call"},
		"rsi was written":           {toInternal, "\t48 8d 76 01 # lea 1(%rsi),%rsi\n" + toInternal, "no single call"},
		"rsi in part":               {toInternal, "\t40 b6 01 # mov $1,%sil\n" + toInternal, "no single call"},
		"rdx was written":           {toInternal, "\t48 83 c2 01 # add $1,%rdx\n" + toInternal, "no single call"},
		"behind a call":             {toInternal, "\tcall ERR_new\n" + toInternal, "two functions"},
		"rcx is a number":           {"48 89 e1              # mov %rsp,%rcx", "31 c9 # xor %ecx,%ecx", "no single call"},
		"rcx was left":              {"48 89 e1              # mov %rsp,%rcx", "90 # nop", "no single call"},
		"the order of OpenSSL 3.3":  {"48 89 e1              # mov %rsp,%rcx", "31 c9 # xor %ecx,%ecx\n\t49 89 e0 # mov %rsp,%r8", "fifth argument"},
		"ex in the order of 3.3":    {exCalls, "49 89 c8 # mov %rcx,%r8\n\t31 c9 # xor %ecx,%ecx\n\tjmp ssl_read_internal\n", "fifth argument"},
		"ex has rcx written":        {exCalls, "48 83 ec 08 # sub $8,%rsp\n\t48 8b 09 # mov (%rcx),%rcx\n\tcall ssl_read_internal", "SSL_read_ex: no single call"},
		"two targets":               {exCalls, "48 83 ec 08 # sub $8,%rsp\n\tcall ssl_peek_internal", "two functions"},
		"one function, two targets": {exCalls, "85 c0 # test\n\tje .other\n\tcall ssl_read_internal\n\tc3\n.other:\n\tcall ssl_peek_internal", "two functions"},
		"twice":                     {exCalls, "48 83 ec 08 # sub\n\t48 89 fb # mov %rdi,%rbx\n\tje .again\n.again:\n\tcall ERR_new\n\tcall ssl_read_internal", "two functions"},
		"peek is the same":          {"call ssl_peek_internal", "call ssl_read_internal", "SSL_peek calls the same"},
		"first is no push":          {popped, "ssl_read_internal:\n\t48 83 ec 08 # sub $8,%rsp", "begins with sub"},
		"peek is not to be read":    {"call ssl_peek_internal", "06 # no instruction", "SSL_peek: its code"},
		"endbr64 and no push":       {popped, "ssl_read_internal:\n\tf3 0f 1e fa # endbr64\n\t48 83 ec 08 # sub", "begins with endbr64"},
		"another way to succeed":    {"b8 ff ff ff ff        # mov $-1,%eax", "b8 01 00 00 00 # mov $1,%eax", "no single call"},
		"another way by a call":     {"b8 ff ff ff ff        # mov $-1,%eax", "90 # nop", "no single call"},
		"a way around":              {"js .negative", "js .done", "no single call"},
		"a jump table":              {toInternal, "\tff e0 # jmp *%rax\n" + toInternal, "does not say"},
		"by a pointer":              {"call ssl_read_internal\n\t85 c0", "ff d0 # call *%rax\n\t85 c0", "by a pointer"},
		"unknown instruction":       {toInternal, "\t0f a2 # cpuid\n" + toInternal, "cpuid"},
		"string instruction":        {toInternal, "\tf3 48 ab # rep stos\n" + toInternal, "not followed"},
		"exchange":                  {toInternal, "\t48 87 f7 # xchg %rsi,%rdi\n" + toInternal, "xchg"},
		"a loop":                    {toInternal, ".loop:\n\tjmp .loop\n" + toInternal, "loop"},
		"not an instruction":        {toInternal, "\t06 # no instruction\n" + toInternal, "not known"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(openSSL30, tc.old, tc.new, 1)
			if text == openSSL30 {
				t.Fatalf("%q is not in the code", tc.old)
			}
			s, _ := surveyed(t, text)
			in := s.inside["SSL_read"]
			if in.Refused == "" || !strings.Contains(in.Refused, tc.says) || in.Place != (Place{}) {
				t.Errorf("%+v, want a refusal that says %q", in, tc.says)
			}
			if s.inside["SSL_read_ex"] != in {
				t.Errorf("the other of the pair says %+v", s.inside["SSL_read_ex"])
			}
		})
	}
}

func TestInsideRefusedForTheFile(t *testing.T) {
	stripped := strings.ReplaceAll(openSSL30, "ssl_read_internal", "f")
	for name, tc := range map[string]struct{ text, says string }{
		"outside of the code": {strings.ReplaceAll(stripped, "call f", "call nowhere"), "outside of the file's code"},
		"symbol elsewhere":    {stripped + "ssl_read_internal:\n\t53 # push\n\tc3\n", "symbol table has ssl_read_internal elsewhere"},
		"no second witness":   {strings.Replace(stripped, "SSL_read_ex:", "another:", 1), "no SSL_read_ex"},
		"one for both": {stripped + strings.ReplaceAll(strings.SplitAfter(stripped, "SSL_peek:")[0], "SSL_read", "SSL_write") + "\n\tc3\n",
			"SSL_read calls the same"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(tc.text, "SSL_peek:\n\n\tc3", "", 1)
			s, _ := surveyed(t, text)
			refused := s.inside["SSL_read"].Refused
			if name == "one for both" {
				refused = s.inside["SSL_write"].Refused
			}
			if !strings.Contains(refused, tc.says) {
				t.Errorf("%q, want %q", refused, tc.says)
			}
		})
	}
}

// TestInsideCut ends the file, and each function, after every byte: what is left decides, or nothing.
func TestInsideCut(t *testing.T) {
	code, found := assemble(t, openSSL30)
	places := map[string]Place{"SSL_read": {Class: SingleStep}, "SSL_read_ex": {Class: SingleStep}}
	want := found["ssl_read_internal"].offset
	for n := range code {
		for _, im := range []*image{codeImage(code[:n], slow()), codeImage(code, slow())} {
			symbols := map[string]function{}
			for name, f := range found {
				if im.segments[0].size == uint64(len(code)) {
					f.size = min(f.size, uint64(n)+1)
				}
				symbols[name] = f
			}
			list, err := im.inside(symbols, places)
			if err != nil {
				t.Fatal(err)
			}
			if in := list["SSL_read"]; (in.Refused == "") != (in.Place != Place{}) || in.Refused == "" && in.Offset != want {
				t.Errorf("cut at %d: %+v", n, in)
			}
			// What lies behind the return could be a cold part of the function, that the linker put elsewhere.
			if in := list["SSL_read"]; n < bytes.IndexByte(code, 0xc3) && in.Refused == "" {
				t.Errorf("cut at %d, before SSL_read returns: %+v", n, in)
			}
		}
	}
}

// TestInsideBudget proves that the search ends, and says so.
func TestInsideBudget(t *testing.T) {
	code, found := assemble(t, openSSL30)
	places := map[string]Place{"SSL_read": {Class: SingleStep}}
	if _, err := codeImage(code, Budget{}).inside(found, places); !errors.Is(err, ErrBudget) {
		t.Errorf("%v", err)
	}
	// 40 branches in a row have 2^40 paths.
	text := "SSL_read:\n" + strings.Repeat("\tje .next\n", 40) + "\t31 c0 # xor %eax,%eax\n\tc3\nSSL_read_ex:\n\tc3\n"
	for i := range 40 {
		text = strings.Replace(text, "je .next\n", fmt.Sprintf("je .n%d\n.n%d:\n", i, i), 1)
	}
	s, _ := surveyed(t, strings.Replace(text, "SSL_read:\n", "SSL_read:\n\t48 83 ec 08\n", 1))
	if refused := s.inside["SSL_read"].Refused; !strings.Contains(refused, "more than 4096") {
		t.Errorf("%q", refused)
	}
}

// FuzzInside takes any bytes for the code of all functions: no panic, and nothing is chosen but a push in the code.
func FuzzInside(f *testing.F) {
	code, symbols := assemble(f, openSSL30)
	f.Add(code, uint16(symbols["SSL_read"].offset), uint16(symbols["SSL_read_ex"].offset), uint16(symbols["SSL_peek"].offset))
	f.Add([]byte(endbr64+"\xc3"), uint16(0), uint16(4), uint16(5))
	f.Fuzz(func(t *testing.T, code []byte, plain, ex, peek uint16) {
		im := codeImage(code, Budget{Bytes: 1 << 20, Time: time.Minute})
		found := map[string]function{}
		for name, at := range map[string]uint16{"SSL_read": plain, "SSL_read_ex": ex, "SSL_peek": peek} {
			found[name] = function{address: codeBase + uint64(at), offset: uint64(at), size: uint64(len(code)) % 256}
		}
		list, err := im.inside(found, map[string]Place{"SSL_read": {Class: SingleStep}})
		if err != nil {
			t.Fatal(err)
		}
		in := list["SSL_read"]
		if in.Refused != "" {
			return
		}
		if _, class := classX86(code[min(in.Offset, uint64(len(code))):]); class != Emulated {
			t.Errorf("%+v in % x", in, code)
		}
	})
}
