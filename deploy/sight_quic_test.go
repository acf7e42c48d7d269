package deploy

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"
	"time"
)

// initialKeys derives what protects the Initial packets of one end (RFC 9001 section 5.2).
func initialKeys(t testing.TB, connection []byte, end string) (key, iv, hp []byte) {
	t.Helper()
	salt, _ := hex.DecodeString("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
	initial, err := hkdf.Extract(sha256.New, connection, salt)
	must(t, err)
	expand := func(secret []byte, label string, n int) []byte {
		label = "tls13 " + label
		info := append([]byte{0, byte(n), byte(len(label))}, append([]byte(label), 0)...)
		out, err := hkdf.Expand(sha256.New, secret, string(info), n)
		must(t, err)
		return out
	}
	secret := expand(initial, end+" in", 32)
	return expand(secret, "quic key", 16), expand(secret, "quic iv", 12), expand(secret, "quic hp", 16)
}

// initialPacket is a protected Initial of QUIC version 1 with a CRYPTO frame, padded to 1,200 bytes (RFC 9001 section 5.4).
func initialPacket(t testing.TB, connection []byte, end string, hello []byte) []byte {
	t.Helper()
	const size, tag, number = 1200, 16, 4
	key, iv, hp := initialKeys(t, connection, end)
	header := []byte{0xc3, 0, 0, 0, 1}
	if end == "client" {
		header = append(append(append(header, byte(len(connection))), connection...), 0) // its own id is empty
	} else {
		header = append(header, 0, 8, 0xf0, 0x67, 0xa5, 0x50, 0x2a, 0x42, 0x62, 0xb5)
	}
	header = append(header, 0) // no token
	length := size - len(header) - 2
	header = append(header, 0x40|byte(length>>8), byte(length))
	at := len(header)
	header = append(header, 0, 0, 0, 2) // the packet number
	frame := append([]byte{6, 0, 0x40 | byte(len(hello)>>8), byte(len(hello))}, hello...)
	plain := append(frame, make([]byte, length-number-tag-len(frame))...)
	nonce := bytes.Clone(iv)
	nonce[11] ^= 2
	block, err := aes.NewCipher(key)
	must(t, err)
	aead, err := cipher.NewGCM(block)
	must(t, err)
	packet := aead.Seal(bytes.Clone(header), nonce, plain, header)
	mask := make([]byte, 16)
	protect, err := aes.NewCipher(hp)
	must(t, err)
	protect.Encrypt(mask, packet[at+4:at+20])
	packet[0] ^= mask[0] & 0x0f
	for i := range number {
		packet[at+i] ^= mask[1+i]
	}
	return packet
}

// TestSightInitial holds the packets of the next test against the RFC: appendix A gives keys and the protected header.
func TestSightInitial(t *testing.T) {
	connection, _ := hex.DecodeString("8394c8f03e515708")
	key, iv, hp := initialKeys(t, connection, "client")
	for what, pair := range map[string][2]string{
		"key": {hex.EncodeToString(key), "1f369613dd76d5467730efcbe3b1a22d"},
		"iv":  {hex.EncodeToString(iv), "fa044b2f42a3fd3b46fb255c"},
		"hp":  {hex.EncodeToString(hp), "9f50449e04a0e810283a1e9933adedd2"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %s, want %s", what, pair[0], pair[1])
		}
	}
	hello, _ := hex.DecodeString(rfcHello)
	packet := initialPacket(t, connection, "client", hello)
	want, _ := hex.DecodeString("c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11")
	if len(packet) != 1200 || !bytes.HasPrefix(packet, want) {
		t.Errorf("%d bytes that begin %x, want %x", len(packet), packet[:32], want)
	}
}

// rfcHello is the ClientHello of RFC 9001 appendix A.2.
const rfcHello = "010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c" +
	"00000413011302010000c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d00170018" +
	"00100007000504616c706e0005000501000000000033002600240" +
	"01d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b00030203040" +
	"00d0010000e0403050306030203080408050806002d00020101001c00024001" +
	"003900320408ffffffffffffffff05048000ffff07048000ffff0801100104800075300901100f088394c8f03e51570806048000ffff"

const quicPeer = `
import socket, sys, time
end, port, mine, packet = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), bytes.fromhex(sys.argv[4])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", port if end == "server" else mine)); s.settimeout(10)
if end == "server":
    print("up", flush=True)
    while True:
        try: s.sendto(packet, s.recvfrom(2048)[1])
        except socket.timeout: pass
s.connect(("127.0.0.1", port))
for i in range(50): s.send(packet); s.recv(2048)
print("done", flush=True); time.sleep(60)
`

// TestSightQUIC sends real Initial packets both ways over UDP: both processes are named as users of QUIC, with its bytes.
func TestSightQUIC(t *testing.T) {
	needsRoot(t)
	wire := countPackets(t)
	p := up(t)
	connection, _ := hex.DecodeString("8394c8f03e515708")
	hello, _ := hex.DecodeString(rfcHello)
	packet := func(end string) string { return fmt.Sprintf("%x", initialPacket(t, connection, end, hello)) }
	server := start(t, "python3", "-c", quicPeer, "server", "9490", "0", packet("server"))
	eventually(t, 5*time.Second, "the server is up", func() bool { return server.log.String() != "" })
	client := start(t, "python3", "-c", quicPeer, "client", "9490", "30490", packet("client"))
	eventually(t, 5*time.Second, "the client is done", func() bool { return client.log.String() != "" })
	// As many bytes that are not QUIC, between two others.
	zeros := fmt.Sprintf("%x", make([]byte, 1200))
	others := []*process{start(t, "python3", "-c", quicPeer, "server", "9491", "0", zeros)}
	eventually(t, 5*time.Second, "the other server is up", func() bool { return others[0].log.String() != "" })
	others = append(others, start(t, "python3", "-c", quicPeer, "client", "9491", "30491", zeros))
	eventually(t, 5*time.Second, "the other client is done", func() bool { return others[1].log.String() != "" })
	want := wire.udp(30490)
	if want != 100*1200 {
		t.Fatalf("%d bytes crossed the wire, want 100 packets", want)
	}
	for end, process := range map[string]*process{"server": server, "client": client} {
		t.Log(p.told(named, fmt.Sprint(process.Process.Pid), "QUIC"))
		if row := p.covered(process.Process.Pid); row.TLSBytes != 0 || !about(row.QUICBytes, want) {
			t.Errorf("%s: %d bytes on the wire, told: %+v", end, want, row)
		}
	}
	for _, o := range others {
		if row := p.covered(o.Process.Pid); row != (coverageLine{}) {
			t.Errorf("a process that sends zeros is told as %+v", row)
		}
	}
}
