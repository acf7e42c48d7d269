package bpf

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
)

// watchMemory probes BIO_write in a private copy of libcrypto.
func (tp *tap) watchMemory() {
	tp.t.Helper()
	path := filepath.Join(tp.library, "libcrypto.so.3")
	for _, dir := range []string{"/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/lib", "/usr/lib"} {
		if library, err := os.ReadFile(filepath.Join(dir, "libcrypto.so.3")); err == nil {
			if err := os.WriteFile(path, library, 0o755); err != nil {
				tp.t.Fatal(err)
			}
			break
		}
	}
	exe, err := link.OpenExecutable(path)
	if err != nil {
		tp.t.Fatal(err)
	}
	put := func() (link.Link, error) { return exe.Uprobe("BIO_write", tp.Program("bio_write_enter"), nil) }
	if tp.UprobeMulti() {
		put = func() (link.Link, error) {
			return exe.UprobeMulti([]string{"BIO_write"}, tp.Program("bio_write_enter"), nil)
		}
	}
	l, err := put()
	if err != nil {
		tp.t.Fatal(err)
	}
	tp.links = append(tp.links, l)
}

// A program whose library writes into memory is bound by what it sends: every stream has its own port in its path.
const manyMemoryBIOs = `
import asyncio, ssl, sys
context = ssl._create_unverified_context()
async def one(port, requests):
    r, w = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    own = w.get_extra_info("sockname")[1]
    for i in range(requests):
        w.write(b"GET /%d/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (own, i))
        head = await r.readuntil(b"\r\n\r\n")
        n = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await r.readexactly(n)
    w.close()
async def main():
    await asyncio.gather(*(one(int(sys.argv[1]), 5) for _ in range(int(sys.argv[2]))))
asyncio.run(main())
`

func TestMemoryBIO(t *testing.T) {
	eachRung(t, func(t *testing.T, rung string) {
		const connections = 60
		tp := start(t, Options{SocketRung: rung})
		tp.watchMemory()
		_, port := serve(t, true, echo)
		tp.run("python3", "-c", manyMemoryBIOs, fmt.Sprint(port), fmt.Sprint(connections))
		streams := of(talks(t, tp.settle()), "python3", layerTLS)
		if len(streams) != connections {
			t.Fatalf("%d streams, want %d", len(streams), connections)
		}
		for _, s := range streams {
			if s.first.RemotePort != port || s.side[egress].flags&flagUnbound != 0 || s.side[egress].flags&flagFresh == 0 {
				t.Errorf("to port %d with flags %#x: %+v", s.first.RemotePort, s.side[egress].flags, s.first)
			}
			if want := fmt.Sprintf("GET /%d/", s.first.LocalPort); strings.Count(string(s.side[egress].data), want) != 5 {
				t.Errorf("the stream of port %d says %.60q", s.first.LocalPort, s.side[egress].data)
			}
			if s.side[egress].heads != 5 || s.side[ingress].heads != 5 || len(s.side[ingress].gaps) != 0 || s.close == nil {
				t.Errorf("port %d: %d and %d heads, gaps %v, closed %v", s.first.LocalPort, s.side[egress].heads, s.side[ingress].heads, s.side[ingress].gaps, s.close)
			}
		}
		if n := entries(t, tp.maps["prefixes"]); n != 0 {
			t.Errorf("prefixes keeps %d entries", n)
		}
		if list, err := tp.Coverage(); err != nil || len(list) != 1 || list[0].DecodedBytes != list[0].TLSBytes || list[0].UnboundBytes != 0 {
			t.Errorf("coverage %+v, %v; want all decoded and bound", list, err)
		}
		if lost := tp.lost(); len(lost) != 0 {
			t.Errorf("lost %v", lost)
		}
	})
}

// Without a probe on BIO_write the lengths tell, if they agree; what they do not tell stays unbound, and nothing is wrong.
func TestMemoryBIOByLength(t *testing.T) {
	const connections = 60
	tp := start(t, Options{})
	_, port := serve(t, true, echo)
	tp.run("python3", "-c", strings.ReplaceAll(manyMemoryBIOs, "5) for", "8) for"), fmt.Sprint(port), fmt.Sprint(connections))
	streams := of(talks(t, tp.settle()), "python3", layerTLS)
	bound := 0
	for _, s := range streams {
		if s.close == nil || s.side[egress].heads != 8 {
			t.Errorf("%d requests, closed %v", s.side[egress].heads, s.close)
			continue
		}
		if s.close.RemotePort == 0 {
			continue
		}
		bound++
		if want := fmt.Sprintf("GET /%d/", s.close.LocalPort); !strings.HasPrefix(string(s.side[egress].data), want) {
			t.Errorf("the stream of port %d says %.60q", s.close.LocalPort, s.side[egress].data)
		}
	}
	if len(streams) != connections || bound < connections*9/10 || uint64(bound) != tp.count("bound_by_length") {
		t.Errorf("%d of %d streams bound, %d by length", bound, len(streams), tp.count("bound_by_length"))
	}
	if n := entries(t, tp.maps["memory_ios"]); n != 0 {
		t.Errorf("memory_ios keeps %d entries", n)
	}
}

// lateMemoryBIO says one thing, waits for a line, and says another.
const lateMemoryBIO = `
import asyncio, ssl, sys
async def main():
    r, w = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]), ssl=ssl._create_unverified_context())
    for path in (b"/early", b"/late"):
        w.write(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        head = await r.readuntil(b"\r\n\r\n")
        await r.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        print("said", flush=True)
        sys.stdin.readline()
asyncio.run(main())
`

// A connection that is older than the programs is known from their start, and its stream is bound at the next write.
func TestOldMemoryBIO(t *testing.T) {
	requireKernel(t)
	_, port := serve(t, true, echo)
	tp := &tap{t: t, library: privateLibrary(t), stopped: make(chan struct{})}
	// The copy must be there before the program maps it.
	tp.Objects = load(t, Options{})
	tp.watchMemory()
	p := startScript(tp, lateMemoryBIO, fmt.Sprint(port))
	p.line(t)
	tp.attach(filepath.Join(tp.library, "libssl.so.3"))
	tp.read()
	_, _ = io.WriteString(p.in, "\n")
	p.line(t)
	p.in.Close()
	_ = p.cmd.Wait()
	s := only(t, tp.settle(), "python3", layerTLS)
	if sent := string(s.side[egress].data); !strings.HasPrefix(sent, "GET /late ") || s.side[egress].heads != 1 {
		t.Errorf("sent %.100q with %d heads", sent, s.side[egress].heads)
	}
	if s.side[ingress].flags&(flagFresh|flagUnbound) != 0 {
		t.Errorf("flags %#x: it was bound at its write, and did not begin here", s.side[ingress].flags)
	}
	if !strings.Contains(string(s.side[ingress].data), "X-Peer: 127.0.0.1:") || s.close == nil || s.close.RemotePort != port {
		t.Errorf("closed %+v after %.100q", s.close, s.side[ingress].data)
	}
}
