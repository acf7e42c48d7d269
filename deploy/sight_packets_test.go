package deploy

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// packets counts what crosses the loopback of the test's network namespace, from the packets themselves: TCP payload by
// sequence numbers, so a packet sent twice counts once and a packet that this socket missed still counts.
type packets struct {
	mu    sync.Mutex
	flows map[ports]*flowBytes
}

type ports struct {
	udp      bool
	from, to uint16
}

type flowBytes struct {
	first, reached uint32 // sequence number of the first byte, and how far beyond it the flow came
	earlier        uint64 // of connections that had the same ports before
}

func countPackets(t testing.TB) *packets {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	must(t, err)
	ip := binary.BigEndian.Uint16([]byte{0x08, 0x00}) // ETH_P_IP; only what comes in, so loopback's double is not there
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20))
	wake := unix.NsecToTimeval(int64(50 * time.Millisecond))
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wake))
	network := ip<<8 | ip>>8
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: network, Ifindex: lo.Index}))
	p := &packets{flows: map[ports]*flowBytes{}}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer unix.Close(fd)
		buf := make([]byte, 256)
		for {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			select {
			case <-stop:
				return
			default:
			}
			if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype == unix.PACKET_HOST {
				p.add(buf[:n])
			} else if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
				t.Errorf("read packets: %v", err)
				return
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
	return p
}

// add counts one IPv4 packet, of which the headers are there.
func (p *packets) add(b []byte) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	l4 := b[min(header, len(b)):]
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case b[9] == unix.IPPROTO_UDP && len(l4) >= 8:
		p.flow(true, l4).earlier += uint64(total - header - 8)
	case b[9] == unix.IPPROTO_TCP && len(l4) >= 20:
		f, sequence := p.flow(false, l4), binary.BigEndian.Uint32(l4[4:])
		const syn = 2
		if l4[13]&syn != 0 {
			if f.first != sequence+1 {
				f.earlier += uint64(f.reached)
				f.first, f.reached = sequence+1, 0
			}
			return
		}
		payload := total - header - int(l4[12]>>4)*4
		if end := sequence - f.first + uint32(payload); payload > 0 && int32(end-f.reached) > 0 {
			f.reached = end
		}
	}
}

func (p *packets) flow(udp bool, l4 []byte) *flowBytes {
	key := ports{udp, binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])}
	f := p.flows[key]
	if f == nil {
		f = &flowBytes{}
		p.flows[key] = f
	}
	return f
}

// tcp sums the payload of both directions on connections that have the port at either end.
func (p *packets) tcp(port int) uint64 { return p.sum(false, port) }

// udp is the same of UDP.
func (p *packets) udp(port int) uint64 { return p.sum(true, port) }

func (p *packets) sum(udp bool, port int) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var sum uint64
	for key, f := range p.flows {
		if key.udp == udp && (int(key.from) == port || int(key.to) == port) {
			sum += f.earlier + uint64(f.reached)
		}
	}
	return sum
}

// about reports whether got is within 1% of want.
func about(got, want uint64) bool {
	off := max(got, want) - min(got, want)
	return want > 0 && off*100 <= want
}

// TestSightPacketCount holds the ruler against transfers of known length before anything is measured with it.
func TestSightPacketCount(t *testing.T) {
	needsRoot(t)
	p := countPackets(t)
	listener, err := net.Listen("tcp", "127.0.0.1:9700")
	must(t, err)
	defer listener.Close()
	const bytes = 3<<20 + 7
	go func() {
		c, err := listener.Accept()
		if err == nil {
			io.ReadFull(c, make([]byte, 5))
			c.Write(make([]byte, bytes))
			c.Close()
		}
	}()
	c, err := net.Dial("tcp", "127.0.0.1:9700")
	must(t, err)
	defer c.Close()
	_, err = c.Write([]byte("hello"))
	must(t, err)
	_, err = io.Copy(io.Discard, c)
	must(t, err)
	eventually(t, 5*time.Second, "every byte is counted", func() bool { return p.tcp(9700) >= bytes+5 })
	u, err := net.Dial("udp", "127.0.0.1:9701")
	must(t, err)
	defer u.Close()
	for range 3 {
		u.Write(make([]byte, 1200)) // nobody listens: the answer is an ICMP message, which is not counted
	}
	eventually(t, 5*time.Second, "every datagram is counted", func() bool { return p.udp(9701) >= 1200 })
	if got := p.tcp(9700); got != bytes+5 {
		t.Errorf("%d bytes of TCP, want %d", got, bytes+5)
	}
	if got := p.udp(9701); got%1200 != 0 || got > 3600 {
		t.Errorf("%d bytes of UDP, want a multiple of 1200", got)
	}
}
