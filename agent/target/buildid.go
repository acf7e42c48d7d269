package target

import (
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"strings"
)

const (
	// Types of notes, by their owner: "GNU" (glibc's elf.h) and "Go" (cmd/internal/buildid).
	noteGNUBuildID = 3
	noteGoBuildID  = 4

	maxNoteSpans = 32 // segments and sections of notes that are read

	goPrefix    = "go:"
	goPartBytes = 20 // of each part of a Go build id: 15 bytes of a hash as base64
)

// BuildID reads the build id of an ELF file, "" where it has none: the GNU one in hex, or "go:" and what the Go build id says
// of the contents (from 1.24 on Go writes a GNU one, too).
func BuildID(r io.ReaderAt, b Budget) (string, error) {
	im, err := openImage(newBounded(r, b))
	if err != nil {
		return "", err
	}
	return im.buildID()
}

func (im *image) buildID() (string, error) {
	type span struct{ offset, size uint64 }
	var spans []span
	for _, s := range im.segments {
		if s.kind == uint32(elf.PT_NOTE) {
			spans = append(spans, span{s.offset, s.size})
		}
	}
	// Go's own linker puts a GNU note behind the segment of notes that it writes: only the section says so.
	for _, s := range im.sections {
		if s.kind == uint32(elf.SHT_NOTE) {
			spans = append(spans, span{s.offset, s.size})
		}
	}
	ofGo := ""
	for _, s := range spans[:min(len(spans), maxNoteSpans)] {
		if s.size == 0 || s.size > maxNotes {
			continue
		}
		notes := make([]byte, s.size)
		if err := im.r.read(notes, s.offset); err != nil {
			if errors.Is(err, ErrBudget) {
				return "", err
			}
			continue
		}
		gnu, golang := buildIDs(notes)
		if gnu != "" {
			return gnu, nil
		}
		if ofGo == "" {
			ofGo = golang
		}
	}
	return ofGo, nil
}

// buildIDs finds both in the notes of a segment.
func buildIDs(notes []byte) (gnu, golang string) {
	pad := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	for len(notes) >= 12 {
		nameSize, descSize := binary.LittleEndian.Uint32(notes), binary.LittleEndian.Uint32(notes[4:])
		kind := binary.LittleEndian.Uint32(notes[8:])
		notes = notes[12:]
		if pad(nameSize)+uint64(descSize) > uint64(len(notes)) {
			break
		}
		name, desc := string(notes[:min(nameSize, 4)]), notes[pad(nameSize):][:descSize]
		switch {
		// GNU build ids are 8 to 20 bytes by every linker; more is somebody's joke.
		case kind == noteGNUBuildID && nameSize == 4 && name == "GNU\x00" && descSize <= 64:
			return hex.EncodeToString(desc), golang
		case kind == noteGoBuildID && nameSize == 4 && name == "Go\x00\x00" && golang == "":
			golang = goBuildID(string(desc))
		}
		step := pad(nameSize) + pad(descSize)
		if step > uint64(len(notes)) {
			break
		}
		notes = notes[step:]
	}
	return "", golang
}

// goBuildID takes the part of a Go build id that tells programs apart: of action/action/content/content the last one, a hash
// of the program. What a build was told to write in its place ("redacted") may be the same in all programs.
func goBuildID(full string) string {
	parts := strings.Split(full, "/")
	if len(parts) != 4 {
		return ""
	}
	for _, p := range parts {
		if len(p) != goPartBytes || strings.Trim(p, base64Letters) != "" {
			return ""
		}
	}
	return goPrefix + parts[3]
}

const base64Letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
