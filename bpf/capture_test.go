package bpf

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf/features"
)

// serve answers from this process, which the kernel never watches: so every event is of the other end.
func serve(t testing.TB, useTLS bool, handler http.HandlerFunc) (*httptest.Server, uint16) {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	if useTLS {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return s, uint16(port)
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("X-Peer", r.RemoteAddr)
	fmt.Fprintf(w, "%s %s %d %s\n", r.Method, r.URL.Path, len(body), strings.Repeat("x", 100))
}

// checkTalk holds a whole exchange against what the server saw.
func checkTalk(t *testing.T, s *talk, port uint16, requests uint32, answers string) {
	t.Helper()
	for d, side := range s.side {
		if len(side.gaps) != 0 {
			t.Errorf("direction %d has gaps %v", d, side.gaps)
		}
		if side.heads != requests {
			t.Errorf("direction %d: %d heads, want %d", d, side.heads, requests)
		}
		if side.flags&(flagTruncated|flagFault|flagUnseen|flagUnbound) != 0 {
			t.Errorf("direction %d: flags %#x", d, side.flags)
		}
		if side.flags&flagFresh == 0 {
			t.Errorf("direction %d is not fresh", d)
		}
	}
	e := s.first
	remote := netip.AddrPortFrom(netip.AddrFrom16(e.Remote).Unmap(), e.RemotePort)
	if want := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port); remote != want {
		t.Errorf("remote %v, want %v", remote, want)
	}
	local := netip.AddrPortFrom(netip.AddrFrom16(e.Local).Unmap(), e.LocalPort)
	if !strings.Contains(string(s.side[ingress].data), "X-Peer: "+local.String()+"\r\n") {
		t.Errorf("local %v is not the peer that the server saw: %.300q", local, s.side[ingress].data)
	}
	if e.Netns != ownNetNS(t) || e.Tgid == 0 || e.Start == 0 || e.Conn == 0 || e.ConnBirth == 0 {
		t.Errorf("owner is not complete: %+v", e)
	}
	if got := string(s.side[ingress].data); !strings.HasSuffix(got, answers) {
		t.Errorf("received %.400q, want the end %.100q", got, answers)
	}
	if s.close == nil {
		t.Fatal("the stream has no end")
	}
	if s.close.Offset != s.side[egress].next || s.close.PeerOffset != s.side[ingress].next {
		t.Errorf("closed at %d and %d, want %d and %d", s.close.Offset, s.close.PeerOffset, s.side[egress].next, s.side[ingress].next)
	}
	if s.close.Heads != requests || s.close.PeerHeads != requests {
		t.Errorf("closed with %d and %d heads, want %d", s.close.Heads, s.close.PeerHeads, requests)
	}
}

func eachRung(t *testing.T, test func(t *testing.T, rung string)) {
	for _, rung := range []string{RungTracepoint, RungFexit, RungKprobe, RungSyscall} {
		t.Run(rung, func(t *testing.T) { test(t, rung) })
	}
}

func TestTLSExchange(t *testing.T) {
	eachRung(t, func(t *testing.T, rung string) { tlsExchange(t, start(t, Options{SocketRung: rung})) })
}

func TestPlainExchange(t *testing.T) {
	eachRung(t, func(t *testing.T, rung string) { plainExchange(t, start(t, Options{SocketRung: rung})) })
}

// TestEveryHook forces each way of hooking sockets, and the older way of hooking libraries where there are two; `make vmtest`
// says which of them a kernel must have.
func TestEveryHook(t *testing.T) {
	requireKernel(t)
	test := func(t *testing.T, options Options) {
		tp := start(t, options)
		tlsExchange(t, tp)
		plainExchange(t, tp)
		blockedReceivers(t, tp)
		if got := tp.Rungs()["socket"]; got != options.SocketRung && options.SocketRung != "" {
			t.Errorf("the socket hook is %s, want %s", got, options.SocketRung)
		}
	}
	eachRung(t, func(t *testing.T, rung string) { test(t, Options{SocketRung: rung}) })
	t.Run("perf", func(t *testing.T) {
		if features.HaveBPFLinkUprobeMulti() != nil {
			t.Skip("the others did: the kernel has no uprobe_multi (Linux 6.6)")
		}
		test(t, Options{NoUprobeMulti: true})
	})
}

// tlsExchange holds two posts of curl against what the kernel handed on: every byte, nobody else's peer, no ciphertext.
func tlsExchange(t *testing.T, tp *tap) {
	t.Helper()
	server, port := serve(t, true, echo)
	body := strings.Repeat("0123456789", 500)
	out := tp.run("curl", "-sk", "--http1.1", server.URL+"/a", server.URL+"/b", "-d", body)
	events := tp.settle()
	s := only(t, events, "curl", layerTLS)
	checkTalk(t, s, port, 2, out[len(out)-100:])
	if sent := string(s.side[egress].data); strings.Count(sent, body) != 2 || !strings.HasPrefix(sent, "POST /a HTTP/1.1\r\n") {
		t.Errorf("sent %d bytes: %.200q", len(sent), sent)
	}
	if n := len(of(talks(t, events), "curl", layerSocket)); n != 0 {
		t.Errorf("ciphertext was captured as %d plain streams", n)
	}
	if lost := tp.lost(); len(lost) != 0 {
		t.Errorf("lost %v", lost)
	}
	if list, err := tp.Coverage(); err != nil || len(list) != 1 || list[0].TLSBytes < 5000 || list[0].DecodedBytes != list[0].TLSBytes {
		t.Errorf("coverage %+v, %v; want every byte decoded", list, err)
	}
}

func plainExchange(t *testing.T, tp *tap) {
	t.Helper()
	server, port := serve(t, false, echo)
	body := strings.Repeat("0123456789", 500)
	out := tp.run("curl", "-s", server.URL+"/a", server.URL+"/b", "-d", body)
	s := only(t, tp.settle(), "curl", layerSocket)
	checkTalk(t, s, port, 2, out[len(out)-100:])
	if sent := string(s.side[egress].data); strings.Count(sent, body) != 2 || !strings.HasPrefix(sent, "POST /a HTTP/1.1\r\n") {
		t.Errorf("sent %d bytes: %.200q", len(sent), sent)
	}
	if lost := tp.lost(); len(lost) != 0 {
		t.Errorf("lost %v", lost)
	}
}

// What is neither HTTP nor TLS is looked at and left alone.
func TestOtherProtocol(t *testing.T) {
	tp := start(t, Options{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(io.Discard, c)
	}()
	port := listener.Addr().(*net.TCPAddr).Port
	tp.run("python3", "-c", fmt.Sprintf(`
import socket
s = socket.create_connection(("127.0.0.1", %d))
for i in range(100): s.send(b"SECRET %%d\n" %% i * 10)
s.send(b"GET / HTTP/1.1\r\n\r\n")
`, port))
	for _, r := range tp.settle() {
		if r.Event.Kind == EventData {
			t.Fatalf("captured %q", r.Data)
		}
	}
	if read := tp.count("bytes_read"); read > 8*16 {
		t.Errorf("%d bytes were read to classify, want at most %d", read, 8*16)
	}
	if tp.count("muted_bytes") == 0 || tp.count("unclassified_bytes") == 0 {
		t.Error("bytes that were not captured are not counted")
	}
}
