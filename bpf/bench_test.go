package bpf

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
)

// pingPong writes and reads n times through one TLS connection to itself and prints the CPU of one round.
const pingPong = `
import ssl, socket, sys, threading, time
n, size = int(sys.argv[1]), int(sys.argv[2])
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); server.load_cert_chain(sys.argv[3], sys.argv[4])
listener = socket.create_server(("127.0.0.1", 0))
def serve():
    s = server.wrap_socket(listener.accept()[0], server_side=True)
    while True:
        b = s.recv(65536)
        if not b: return
        s.sendall(b)
threading.Thread(target=serve, daemon=True).start()
c = ssl._create_unverified_context().wrap_socket(socket.create_connection(listener.getsockname()))
c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
message = b"GET / HTTP/1.1\r\n\r\n".ljust(size, b"x")
for i in range(200): c.sendall(message); c.recv(65536)
begin = time.process_time_ns()
for i in range(n): c.sendall(message); c.recv(65536)
print((time.process_time_ns() - begin) // n)
`

// BenchmarkExchange gives the CPU of one TLS round trip (four calls of the library, both ends in one process): alone,
// with empty probes (the floor that any tap by uprobes pays), and with ours. Compare within one run.
func BenchmarkExchange(b *testing.B) {
	requireKernel(b)
	requireProgram(b, "python3")
	dir := b.TempDir()
	cert, key := certificate(b, dir)
	measure := func(b *testing.B, tp *tap, size int) float64 {
		b.Helper()
		n := max(b.N, 500)
		out := tp.run("python3", "-c", pingPong, strconv.Itoa(n), strconv.Itoa(size), cert, key)
		ns, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(ns, "cpu-ns/exchange")
		return ns
	}
	for _, size := range []int{200, 4096} {
		var alone float64
		for _, probes := range []string{"none", "empty", "spile"} {
			b.Run(fmt.Sprintf("%d/%s", size, probes), func(b *testing.B) {
				tp := &tap{t: b, library: privateLibrary(b), stopped: make(chan struct{})}
				if probes != "none" {
					tp.Objects = load(b, Options{RingBytes: 32 << 20})
				}
				if probes == "empty" {
					closeAll := attachEmpty(b, tp)
					defer closeAll()
				}
				if probes == "spile" {
					tp.attach(filepath.Join(tp.library, "libssl.so.3"))
					tp.drain()
				}
				ns := measure(b, tp, size)
				if probes == "none" {
					alone = ns
				}
				if alone > 0 {
					b.ReportMetric(ns/alone, "ratio")
				}
			})
		}
	}
}

// drain reads and drops.
func (tp *tap) drain() {
	reader, err := tp.Reader()
	if err != nil {
		tp.t.Fatal(err)
	}
	tp.reader = reader
	tp.t.Cleanup(tp.stop)
	go func() {
		defer close(tp.stopped)
		var record Record
		for {
			if err := reader.Read(&record); err != nil && err != ErrDrained {
				return
			}
		}
	}()
}

func attachEmpty(b *testing.B, tp *tap) func() {
	b.Helper()
	exe, err := link.OpenExecutable(filepath.Join(tp.library, "libssl.so.3"))
	if err != nil {
		b.Fatal(err)
	}
	if !tp.UprobeMulti() {
		b.Skip("needs uprobe_multi (Linux 6.6)")
	}
	var symbols []string
	for _, p := range probes {
		symbols = append(symbols, p.symbol)
	}
	exit, err := exe.UretprobeMulti(symbols, tp.Program("empty"), nil)
	if err != nil {
		b.Fatal(err)
	}
	enter, err := exe.UprobeMulti(symbols, tp.Program("empty"), nil)
	if err != nil {
		b.Fatal(err)
	}
	return func() { _ = enter.Close(); _ = exit.Close() }
}

// BenchmarkLoad is the time until the hooks are in place.
func BenchmarkLoad(b *testing.B) {
	requireKernel(b)
	for b.Loop() {
		o, err := Load(Options{Select: Selector{Include: Rules{NetNS: []uint32{ownNetNS(b)}}}})
		if err != nil {
			b.Fatal(err)
		}
		if err := o.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
