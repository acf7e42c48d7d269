package target

import (
	"debug/elf"
	"encoding/binary"
)

const buildInfoMagic = "\xff Go buildinf:"

// buildInfo finds the build info by its section or, without sections, where the linker aligns it in writable data.
func (im *image) buildInfo() (uint64, bool, error) {
	s, ok, err := im.named(".go.buildinfo")
	if err := notBudget(err); err != nil {
		return 0, false, err
	}
	if ok {
		got := make([]byte, len(buildInfoMagic))
		err := im.r.read(got, s.offset)
		return s.offset, string(got) == buildInfoMagic, notBudget(err)
	}
	if len(im.sections) > 0 {
		return 0, false, nil
	}
	found := uint64(0)
	for _, seg := range im.segments {
		const align = 16
		first := (align - seg.offset%align) % align
		if seg.kind != uint32(elf.PT_LOAD) || seg.flags&uint32(elf.PF_W) == 0 || first >= seg.size {
			continue
		}
		err := im.r.pieces(seg.offset+first, seg.size-first, 0, func(piece []byte, at uint64) bool {
			for i := 0; i+align <= len(piece) && found == 0; i += align {
				if string(piece[i:i+len(buildInfoMagic)]) == buildInfoMagic {
					found = at + uint64(i)
				}
			}
			return found == 0
		})
		if err := notBudget(err); err != nil || found != 0 {
			return found, found != 0, err
		}
	}
	return 0, false, nil
}

// goVersion reads the inline version string that Go 1.18 and later write at offset 32 of the build info (debug/buildinfo).
func (im *image) goVersion(at uint64) string {
	const unknown = "before Go 1.18"
	head := make([]byte, 32+binary.MaxVarintLen16)
	if im.r.read(head, at) != nil || head[15]&2 == 0 {
		return unknown
	}
	length, n := binary.Uvarint(head[32:])
	if n <= 0 || length == 0 || length > 64 {
		return unknown
	}
	text := make([]byte, length)
	if im.r.read(text, at+32+uint64(n)) != nil {
		return unknown
	}
	for _, c := range text {
		if c < ' ' || c > '~' {
			return unknown
		}
	}
	return string(text)
}
