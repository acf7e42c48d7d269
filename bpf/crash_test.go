package bpf

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// crasher ends itself in the way it is told, after one TLS call that probes saw.
const crasher = `
import ctypes, os, signal, socket, ssl, sys
c = ssl._create_unverified_context()
how = sys.argv[2]
if how == "in-call": c._msg_callback = lambda *a: ctypes.string_at(0)
s = c.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"); s.recv(65536)
if how == "address": ctypes.string_at(0)
if how == "itself": os.kill(os.getpid(), signal.SIGSEGV)
if how == "caught":
    signal.signal(signal.SIGTRAP, lambda *a: None); os.kill(os.getpid(), signal.SIGTRAP); os._exit(3)
if how == "survives":
    signal.signal(signal.SIGTRAP, lambda *a: None); os.kill(os.getpid(), signal.SIGTRAP)
if how == "waits": print("ready", flush=True); sys.stdin.read()
`

// A crash says where the process was when the signal came; nobody hears of a signal that is survived.
func TestCrash(t *testing.T) {
	tp := start(t, Options{})
	server, _ := serve(t, true, echo)
	port := server.URL[strings.LastIndexByte(server.URL, ':')+1:]
	for _, c := range []struct {
		how  string
		want *Crash
	}{
		{"in-call", &Crash{Signal: 11, Code: 1, Status: 11, InCall: true}}, // 1 = SEGV_MAPERR
		{"address", &Crash{Signal: 11, Code: 1, Status: 11}},
		{"itself", &Crash{Signal: 11, Code: 0, Status: 11, BySelf: true}},
		{"caught", &Crash{Signal: 5, Code: 0, Status: 3 << 8, BySelf: true}},
		{"waits", &Crash{Signal: 11, Code: 0, Status: 11}}, // somebody else sends it
		{"survives", nil},
		{"nothing", nil},
	} {
		t.Run(c.how, func(t *testing.T) {
			seen := len(tp.settle())
			cmd := tp.command("python3", "-c", crasher, port, c.how)
			if c.how == "waits" {
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				defer in.Close()
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				var ready string
				if _, err := fmt.Fscan(out, &ready); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Process.Signal(syscall.SIGSEGV); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait() // its end is the point
			} else {
				_ = cmd.Run()
			}
			var got []Crash
			for _, r := range tp.settle()[seen:] {
				if r.Event.Kind == EventCrash {
					got = append(got, CrashOf(&r.Event))
				}
			}
			if c.want == nil {
				if len(got) > 0 {
					t.Errorf("crash %+v", got)
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("%d crashes", len(got))
			}
			g := got[0]
			if g.IP == 0 || g.Exe.Ino == 0 || g.Start == 0 || g.Comm != "python3" || int(g.TGID) != cmd.Process.Pid {
				t.Errorf("crash %+v of process %d", g, cmd.Process.Pid)
			}
			g.Status &^= 0x80 // a core may have been written
			if want := *c.want; g.Signal != want.Signal || g.Code != want.Code || g.Status != want.Status || g.InCall != want.InCall || g.BySelf != want.BySelf || g.AtSite || g.InUprobeArea {
				t.Errorf("crash %+v, want %+v", g, want)
			}
		})
	}
}
