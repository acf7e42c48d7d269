package target

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
)

// Go is what an executable says about the Go toolchain that made it.
type Go struct {
	Version string // "go1.26.1"; "" where the file names none
	TLS     Answer // whether crypto/tls is linked in
}

// Answer is a fact that a budget may leave open.
type Answer uint8

const (
	Unknown Answer = iota
	No
	Yes
)

// goTLSFunction is in the function table of every program that can read from a crypto/tls connection.
const goTLSFunction = "crypto/tls.(*Conn).Read"

// golang looks for the build info that the Go linker writes (debug/buildinfo), and for crypto/tls.
// The third result is false where the file is not a Go program.
func (im *image) golang() (Go, bool, error) {
	at, ok, err := im.buildInfo()
	if err != nil || !ok {
		return Go{}, false, err
	}
	g := Go{Version: im.goVersion(at)}
	g.TLS, err = im.goLinks(goTLSFunction)
	if errors.Is(err, ErrBudget) {
		return g, true, nil
	}
	return g, true, err
}

const buildInfoMagic = "\xff Go buildinf:"

func (im *image) buildInfo() (uint64, bool, error) {
	s, ok, err := im.named(".go.buildinfo")
	if err != nil {
		return 0, false, err
	}
	candidates := []uint64{s.offset}
	if !ok {
		// Without sections it is at the start of the first writable segment.
		candidates = nil
		for _, seg := range im.segments {
			if seg.kind == uint32(elf.PT_LOAD) && seg.flags&uint32(elf.PF_W) != 0 {
				candidates = append(candidates, seg.offset)
				break
			}
		}
	}
	got := make([]byte, len(buildInfoMagic))
	for _, at := range candidates {
		if err := im.r.read(got, at); err == nil && string(got) == buildInfoMagic {
			return at, true, nil
		} else if err := notBudget(err); err != nil {
			return 0, false, err
		}
	}
	return 0, false, nil
}

// goVersion reads the inline version string that Go 1.18 and later write at offset 32.
func (im *image) goVersion(at uint64) string {
	head := make([]byte, 32+binary.MaxVarintLen16)
	if im.r.read(head, at) != nil || head[15]&2 == 0 {
		return ""
	}
	length, n := binary.Uvarint(head[32:])
	if n <= 0 || length == 0 || length > 64 {
		return ""
	}
	text := make([]byte, length)
	if im.r.read(text, at+32+uint64(n)) != nil {
		return ""
	}
	for _, c := range text {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	return string(text)
}

// goLinks searches the names in the line table, which strip keeps.
func (im *image) goLinks(function string) (Answer, error) {
	// Position-independent programs up to Go 1.25 keep it among relocated data.
	table, ok, err := im.named(".gopclntab", ".data.rel.ro.gopclntab")
	if err != nil || !ok {
		return Unknown, err
	}
	want := append(append([]byte{0}, function...), 0)
	const step = 64 << 10
	buf := make([]byte, step+len(want))
	for at := uint64(0); at < table.size; at += step {
		n := min(uint64(len(buf)), table.size-at)
		if err := im.r.read(buf[:n], table.offset+at); err != nil {
			return Unknown, notBudget(err)
		}
		if bytes.Contains(buf[:n], want) {
			return Yes, nil
		}
	}
	return No, nil
}
