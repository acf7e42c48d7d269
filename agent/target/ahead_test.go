package target

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// nodeBIOWrite is how node's compiler begins BIO_write of OpenSSL 3.0, debianBIOWrite how Debian 12's does.
const (
	nodeBIOWrite = `
BIO_write:
	31 c0                 # xor %eax,%eax
	85 d2                 # test %edx,%edx
	jle .nothing
	55                    # push %rbp
	48 63 d2              # movslq %edx,%rdx
	call f
.again:
	85 c0                 # test %eax,%eax
	5d                    # pop %rbp
.nothing:
	c3                    # ret
f:
	53                    # push %rbx
	c3                    # ret
`
	debianBIOWrite = `
BIO_write:
	48 83 ec 18           # sub $0x18,%rsp
	64 48 8b 04 25 28 00 00 00 # mov %fs:0x28,%rax
	48 89 44 24 08        # mov %rax,8(%rsp)
	31 c0                 # xor %eax,%eax
	85 d2                 # test %edx,%edx
	jle .nothing
	48 89 e1              # mov %rsp,%rcx
	48 63 d2              # movslq %edx,%rdx
	call f
.nothing:
	48 83 c4 18           # add $0x18,%rsp
	c3                    # ret
f:
	53                    # push %rbx
	c3                    # ret
`
)

func aheadOf(t testing.TB, text string) Inside {
	t.Helper()
	code, found := assemble(t, text)
	in, err := codeImage(code, slow()).ahead(found["BIO_write"])
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestAhead(t *testing.T) {
	for name, tc := range map[string]struct {
		text, code string
		skip       uint64
	}{
		"node":        {nodeBIOWrite, "jle", 4},
		"Debian 12":   {debianBIOWrite, "jle", 0x16},
		"endbr64":     {strings.Replace(debianBIOWrite, "write:", "write:\n\tf3 0f 1e fa # endbr64", 1), "jle", 0x1a},
		"a push":      {strings.Replace(nodeBIOWrite, "85 d2                 # test %edx,%edx\n\tjle .nothing", "", 1), "push", 2},
		"a tail call": {strings.Replace(nodeBIOWrite, "85 d2                 # test %edx,%edx\n\tjle .nothing", "jmp f", 1), "jmp", 2},
		"others lost": {strings.Replace(nodeBIOWrite, "85 d2 ", "31 c9 # xor %ecx,%ecx\n\t45 31 c0 # xor %r8d,%r8d\n\t85 d2 ", 1), "jle", 9},
		"to itself":   {strings.Replace(nodeBIOWrite, "85 c0 ", "jmp BIO_write\n\t85 c0 ", 1), "jle", 4},
	} {
		want := Inside{Place: Place{Name: tc.code, Offset: tc.skip, Class: Emulated}}
		if in := aheadOf(t, tc.text); in != want {
			t.Errorf("%s: %+v, want %+v", name, in, want)
		}
	}
}

// TestAheadRefused spoils one thing at a time: each must keep the probe at the entry.
func TestAheadRefused(t *testing.T) {
	for name, tc := range map[string]struct{ old, new, says string }{
		"rdi was written":     {"85 d2 ", "48 89 c7 # mov %rax,%rdi\n\t85 d2 ", "an argument is gone before jle"},
		"rsi in part":         {"85 d2 ", "40 b6 01 # mov $1,%sil\n\t85 d2 ", "an argument is gone before jle"},
		"rdx was widened":     {"85 d2 ", "48 63 d2 # movslq %edx,%rdx\n\t85 d2 ", "an argument is gone before jle"},
		"a loop to it":        {"85 c0 ", "jle .loop\n\t85 c0 ", "it jumps back to +0x4"},
		"a loop before it":    {"85 c0 ", "jmp .head\n\t85 c0 ", "it jumps back to +0x2"},
		"a jump table":        {"85 c0 ", "ff e0 # jmp *%rax\n\t85 c0 ", "does not say"},
		"it returns":          {"85 d2 ", "c3 # ret\n\t85 d2 ", "ret at +0x2 is not followed"},
		"by a pointer":        {"85 d2 ", "ff d0 # call *%rax\n\t85 d2 ", "call at +0x2 is not followed"},
		"unknown instruction": {"85 d2 ", "0f a2 # cpuid\n\t85 d2 ", "cpuid at +0x2 is not followed"},
		"not an instruction":  {"85 d2 ", "06 # no instruction\n\t85 d2 ", "its code at +0x2 is not known"},
		"nor behind it":       {"85 c0 ", "06 # no instruction\n\t85 c0 ", "is not known"},
	} {
		text := strings.Replace(nodeBIOWrite, tc.old, tc.new, 1)
		text = strings.Replace(text, "\tjle .nothing", ".loop:\n\tjle .nothing", 1)
		text = strings.Replace(text, "\t85 d2", ".head:\n\t85 d2", 1)
		if in := aheadOf(t, text); !strings.Contains(in.Refused, tc.says) || in.Place != (Place{}) {
			t.Errorf("%s: %+v, want a refusal that says %q", name, in, tc.says)
		}
	}
	code, found := assemble(t, nodeBIOWrite)
	for _, size := range []uint64{0, maxFunctionSize + 1} {
		f := found["BIO_write"]
		f.size = size
		if in, err := codeImage(code, slow()).ahead(f); err != nil || !strings.HasPrefix(in.Refused, "its length is") {
			t.Errorf("%d bytes: %+v, %v", size, in, err)
		}
	}
	if _, err := codeImage(code, Budget{}).ahead(found["BIO_write"]); !errors.Is(err, ErrBudget) {
		t.Errorf("%v", err)
	}
}

// A function that has a return probe keeps both at its entry: behind it the stack may have moved.
func TestAheadIsForEntriesOnly(t *testing.T) {
	code, found := assemble(t, nodeBIOWrite)
	s, err := codeImage(code, slow()).survey(func([]string) (map[string]function, error) { return found, nil }, []string{"BIO_write"})
	if err != nil {
		t.Fatal(err)
	}
	lib := Library{Functions: []Function{bioWrite()}}
	sites, _ := lib.sites(s.places, s.inside, s.ahead)
	if len(sites) != 1 || sites[0].Explain() != "BIO_write: jle at +0x4, emulated" || sites[0].Offset != 4 {
		t.Errorf("%+v", sites)
	}
	lib.Functions[0].Exit = "ssl_read_exit"
	sites, _ = lib.sites(s.places, s.inside, s.ahead)
	if len(sites) != 1 || sites[0].Explain() != "BIO_write: xor, single_step" || sites[0].Offset != 0 {
		t.Errorf("%+v", sites)
	}
	lib.Functions[0].Exit = ""
	refused := map[string]Inside{"BIO_write": {Refused: "a reason"}}
	sites, _ = lib.sites(s.places, s.inside, refused)
	if len(sites) != 1 || sites[0].Explain() != "BIO_write: xor, single_step; no cheaper place: a reason" {
		t.Errorf("%+v", sites)
	}
}

// FuzzAhead takes any bytes for a function: no panic, and nothing is chosen but an emulated instruction in it.
func FuzzAhead(f *testing.F) {
	for _, text := range []string{nodeBIOWrite, debianBIOWrite} {
		code, _ := assemble(f, text)
		f.Add(code, uint16(len(code)))
	}
	f.Add([]byte(endbr64+"\xc3"), uint16(5))
	f.Fuzz(func(t *testing.T, code []byte, size uint16) {
		in, err := codeImage(code, Budget{Bytes: 1 << 20, Time: time.Minute}).ahead(function{address: codeBase, size: uint64(size)})
		if err != nil || in.Refused != "" {
			return
		}
		if in.Offset >= uint64(min(len(code), int(size))) {
			t.Fatalf("%+v in % x", in, code)
		}
		if _, class := classX86(code[in.Offset:]); class != Emulated {
			t.Errorf("%+v in % x", in, code)
		}
	})
}
