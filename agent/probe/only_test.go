package probe

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/spile/spile/agent/target"
)

func TestOneProcessAlone(t *testing.T) {
	for _, multi := range []bool{true, false} {
		t.Run(fmt.Sprintf("multi=%v", multi), func(t *testing.T) {
			programs := newCounting(t, multi)
			path := library(t, t.TempDir())
			asked, other := newCaller(t, path), newCaller(t, path)
			times := DefaultTimes() // the grace period is not for these
			r := registry(t, programs, times)
			f := described(t, path)
			f.Only = asked.process().PID
			if !r.Use(asked.process(), f) {
				t.Fatalf("%+v", r.List())
			}
			if s := one(t, r); s.Only != f.Only || s.Phase != Attached || s.Processes != 1 {
				t.Errorf("%+v", s)
			}
			if known, _, _ := r.State(f.ID, 0); known {
				t.Error("probed in one process, and said to be probed in all")
			}
			asked.call(t, 11)
			other.call(t, 5)
			if n := programs.hits(t, freed); n != 11 {
				t.Errorf("%d hits of 11 calls", n)
			}
			second := f
			second.Only = other.process().PID
			r.Use(other.process(), second)
			other.call(t, 2)
			if n := programs.hits(t, freed); n != 13 || len(r.List()) != 2 {
				t.Errorf("%d hits of 13 calls, %d attachments", n, len(r.List()))
			}
			r.Drop(target.Process{PID: f.Only, Start: 99}, f.ID) // who had this id before
			r.Drop(asked.process(), f.ID)
			r.detaching.Wait()
			asked.call(t, 4)
			other.call(t, 1)
			if n := programs.hits(t, freed); n != 14 || one(t, r).Only != second.Only {
				t.Errorf("%d hits of 14 calls, left: %+v", n, r.List())
			}
			gone := f
			asked.Process.Kill()
			asked.Wait()
			if r.Use(asked.process(), gone) {
				t.Error("a process that is gone was probed")
			}
			for _, s := range r.List() {
				want := fmt.Sprintf("attach SSL_read to %s: process %d is gone; nothing needs to be done", path, f.Only)
				if s.Only == f.Only && (s.Phase != Failed || s.Reason != want) {
					t.Errorf("%+v\nwant %q", s, want)
				}
			}
		})
	}
}

// TestReturnInstructions puts the exit program on every return of a function that has several, as Go's functions do.
func TestReturnInstructions(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("written for amd64")
	}
	dir := t.TempDir()
	source, path := filepath.Join(dir, "lib.s"), filepath.Join(dir, "libssl.so.9")
	code := `.globl SSL_read, SSL_write, SSL_do_handshake, SSL_free, first, second
.type SSL_read,@function
.type SSL_write,@function
.type SSL_do_handshake,@function
.type SSL_free,@function
.type first,@function
.type second,@function
.text
SSL_read: ret
SSL_write: ret
SSL_free: push %rbp
 pop %rbp
 ret
SSL_do_handshake: push %rbp
 pop %rbp
 testl $1, calls(%rip)
 jnz 1f
 incl calls(%rip)
 mov $1, %eax
first: ret
1: incl calls(%rip)
 mov $2, %eax
second: ret
.data
calls: .long 0
.section .note.GNU-stack,"",@progbits
`
	if err := os.WriteFile(source, []byte(code), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cc", "-shared", "-o", path, source).CombinedOutput(); err != nil {
		t.Skipf("cc: %v: %s", err, out)
	}
	handle, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	returns, err := target.InspectLibrary(handle, []string{"first", "second"}, target.DefaultBudget())
	if err != nil || len(returns.Functions) != 2 {
		t.Fatalf("%+v, %v", returns, err)
	}
	for _, multi := range []bool{true, false} {
		programs := newCounting(t, multi)
		c := newCaller(t, path)
		f := described(t, path)
		for i := range f.Sites {
			if f.Sites[i].Symbol == "SSL_do_handshake" {
				f.Sites[i].Returns = []uint64{returns.Functions["first"], returns.Functions["second"]}
			}
		}
		r := registry(t, programs, DefaultTimes())
		r.Use(c.process(), f)
		c.sum(t, "SSL_do_handshake", 11, 16) // 1+2+1+...+1
		c.sum(t, "SSL_do_handshake", 1, 2)
		for program, want := range map[string]uint64{"ssl_handshake_enter": 12, "ssl_handshake_exit": 12} {
			if n := programs.hits(t, program); n != want {
				t.Errorf("multi=%v: %s ran %d times in 12 calls, want %d (%+v)", multi, program, n, want, one(t, r))
			}
		}
	}
}
