package target

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// likeOpenSSL has the shape of ssl/ssl_lib.c. FLAGS is what OpenSSL 3.3 put between the arguments.
const likeOpenSSL = `
#include <stddef.h>
typedef struct ssl SSL;
struct ssl { int (*handshake)(SSL *); int (*io)(SSL *, void *, size_t, size_t *); size_t pending; };
void raise_error(const char *, int);
#ifdef FIVE
#define FLAGS , unsigned long long flags
#define FLAG , 0
#define USE if (flags & 1) s->pending = 0
#else
#define USE
#define FLAGS
#define FLAG
#endif
#define STATIC static __attribute__((noinline))
STATIC int ssl_read_internal(SSL *s, void *buf, size_t num FLAGS, size_t *done)
{
	if (!s->handshake) { raise_error("no method", __LINE__); return -1; }
	USE;
	if (s->pending > num && s->handshake(s) < 0) return -1;
	int ret = s->io(s, buf, num, done);
	s->pending += *done;
	return ret;
}
STATIC int ssl_write_internal(SSL *s, const void *buf, size_t num FLAGS, size_t *done)
{
	if (!s->handshake) { raise_error("no method", __LINE__); return -1; }
	USE;
	if (s->pending && s->handshake(s) < 0) return -1;
	int ret = s->io(s, (void *)buf, num, done);
	s->pending -= *done;
	return ret;
}
STATIC int ssl_peek_internal(SSL *s, void *buf, size_t num, size_t *done)
{
	if (!s->handshake) { raise_error("no method", __LINE__); return -1; }
	return s->io(s, buf, num, done) + s->handshake(s);
}
#define PAIR(name, qualifier, flag) \
int SSL_##name(SSL *s, qualifier void *buf, int num) { \
	size_t done; \
	if (num < 0) { raise_error("bad length", __LINE__); return -1; } \
	int ret = ssl_##name##_internal(s, buf, (size_t)num flag, &done); \
	if (ret > 0) ret = (int)done; \
	return ret; \
} \
int SSL_##name##_ex(SSL *s, qualifier void *buf, size_t num, size_t *done) { \
	int ret = ssl_##name##_internal(s, buf, num flag, done); \
	if (ret < 0) ret = 0; \
	return ret; \
}
PAIR(read, , FLAG)
PAIR(write, const, FLAG)
PAIR(peek, , )
#ifdef FIVE
int SSL_read_ex2(SSL *s, void *b, size_t n, unsigned long long flags, size_t *done) { return ssl_read_internal(s, b, n, flags, done); }
int SSL_write_ex2(SSL *s, const void *b, size_t n, unsigned long long flags, size_t *done) { return ssl_write_internal(s, b, n, flags, done); }
#endif
`

// TestCompiled proves on many ways to compile the same text: what is chosen is the function that the symbol table calls
// by its name, and for an order of arguments that no program reads nothing is chosen.
func TestCompiled(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("calls are followed for amd64 only")
	}
	found, five := 0, 0
	for _, flags := range []string{
		"-O0", "-O1", "-O2", "-O3", "-Os", "-O2 -fno-omit-frame-pointer", "-O2 -fcf-protection=full", "-O2 -fstack-protector-all",
		"-O2 -fstack-clash-protection -fcf-protection=full -fstack-protector-strong", "-O2 -fno-ipa-ra -fno-shrink-wrap",
		"-O2 -fzero-call-used-regs=used-gpr", "-O2 -mindirect-branch=thunk-extern",
	} {
		t.Run(flags, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "libssl.so.9")
			want := compileLike(t, path, strings.Fields(flags)...)
			for _, strip := range []bool{false, true} {
				if strip {
					if out, err := exec.Command("strip", path).CombinedOutput(); err != nil {
						t.Fatalf("strip: %v: %s", err, out)
					}
				}
				for _, s := range describedAt(t, path).Sites {
					switch {
					case s.Inner != nil && (s.Inner.Offset < want[s.Symbol] || s.Inner.Offset > want[s.Symbol]+4):
						t.Errorf("stripped=%v: %s, want %#x", strip, s.Explain(), want[s.Symbol])
					case s.Inner != nil:
						found++
						if named := strings.HasPrefix(s.Inner.Name, "ssl_"); named == strip {
							t.Errorf("stripped=%v: it is called %q", strip, s.Inner.Name)
						}
					case s.Class != Emulated && s.NoInner == "":
						t.Errorf("no reason: %s", s.Explain())
					}
				}
			}
			path = filepath.Join(t.TempDir(), "libssl.so.9")
			want = compileLike(t, path, append(strings.Fields(flags), "-DFIVE")...)
			for _, s := range describedAt(t, path).Sites {
				switch {
				case s.Inner == nil:
				case !strings.HasPrefix(s.Symbol, "SSL_write"):
					t.Errorf("five arguments: %s", s.Explain())
				case s.Inner.Offset < want["SSL_write"] || s.Inner.Offset > want["SSL_write"]+4 || s.Inner.Enter != "ssl_write_ex2_enter":
					t.Errorf("five arguments: %s, want %#x (%+v)", s.Explain(), want["SSL_write"], s.Inner)
				default:
					five++
				}
			}
		})
	}
	if found < 40 || five < 18 {
		t.Errorf("only %d and %d places were found", found, five) // -O0 and frame pointers begin with a push anyway
	}
}

// compileLike builds the library, and says where the static function lies that each exported one calls.
func compileLike(t *testing.T, path string, flags ...string) map[string]uint64 {
	t.Helper()
	source := filepath.Join(filepath.Dir(path), "lib.c")
	if err := os.WriteFile(source, []byte(likeOpenSSL), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cc", append([]string{"-shared", "-fPIC", "-o", path, source}, flags...)...).CombinedOutput(); err != nil {
		t.Fatalf("cc: %v: %s", err, out)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{}
	for _, s := range symbols {
		for _, kind := range []string{"read", "write"} {
			// The compiler may have made a variant of it.
			if strings.HasPrefix(s.Name, "ssl_"+kind+"_internal") {
				for _, p := range f.Progs {
					if p.Type == elf.PT_LOAD && s.Value >= p.Vaddr && s.Value < p.Vaddr+p.Filesz {
						want["SSL_"+kind], want["SSL_"+kind+"_ex"] = s.Value-p.Vaddr+p.Off, s.Value-p.Vaddr+p.Off
					}
				}
			}
		}
	}
	return want
}
