package target

import (
	"fmt"
	"strings"
	"unicode"
)

// The sentences. Other parts show them as they are.
const (
	quicReason   = "it speaks QUIC (HTTP/3), whose TLS is inside the program; QUIC is not decoded"
	kernelReason = "the kernel encrypts for it (kTLS): bytes sent by SSL_sendfile are not seen"
	endedUnseen  = "the process has ended before it was looked at; what did its TLS is unknown"
	notYet       = "not looked at yet: processes with more undecoded bytes come first"
)

// reasonOf makes one line of what the kernel counted and what was seen; k is nil where nobody has looked yet.
func reasonOf(t Traffic, k *told) string {
	var parts []string
	if t.Undecoded > 0 {
		parts = append(parts, tlsReason(t, k))
	}
	if t.KTLS && !(k != nil && t.Undecoded > 0 && k.sight.onlyDecoded()) {
		parts = append(parts, kernelReason)
	}
	if t.QUIC > 0 {
		parts = append(parts, quicReason)
	}
	if k != nil && !k.looked.IsZero() && k.sight.process != "" && (t.Ended || k.ended) && len(parts) > 0 {
		parts = append(parts, "the process has ended")
	}
	return strings.Join(parts, "; ")
}

func tlsReason(t Traffic, k *told) string {
	switch {
	case k == nil && t.Ended, k != nil && k.ended && k.sight.process == "":
		return endedUnseen
	case k == nil:
		return notYet
	}
	return k.sight.sentence(t.KTLS, k.grown)
}

// sentence says why bytes of a process are not decoded.
func (s *sight) sentence(kernelEncrypts, grown bool) string {
	if s.fault != "" {
		return "what does its TLS is unknown: " + s.fault
	}
	var hints []string
	for _, h := range s.hints {
		hints = append(hints, h.text)
	}
	if s.narrow {
		const why = "it is a 32-bit program, and only 64-bit programs are decoded"
		switch {
		case len(s.others) > 0:
			return "TLS by " + strings.Join(s.others, " or ") + " is not decoded: " + why
		case len(hints) > 0:
			return strings.Join(append(hints, why), "; ")
		}
		return "what does its TLS is unknown: " + why
	}
	decoded := ""
	switch len(s.decoded) {
	case 0:
	case 1:
		decoded = s.decoded[0] + " is decoded in this process"
	default:
		decoded = strings.Join(s.decoded, " and ") + " are decoded in this process"
	}
	also := append([]string(nil), s.problems...)
	if len(s.others) > 0 && (decoded != "" || len(also) > 0) {
		also = append(also, "it also carries "+strings.Join(s.others, " and ")+", which is not decoded yet")
	}
	if decoded != "" || len(also) > 0 {
		also = append(also, hints...)
	}
	switch {
	case decoded != "" && len(also) > 0:
		return decoded + ", but " + strings.Join(also, ", and ")
	case decoded != "" && kernelEncrypts:
		return decoded + ", but " + kernelReason
	case decoded != "":
		return s.residue(decoded, grown)
	case len(also) > 0:
		return strings.Join(also, "; ")
	case len(s.others) > 0:
		return strings.Join(append([]string{"TLS by " + strings.Join(s.others, " or ") + " is not decoded yet"}, hints...), "; ")
	case len(hints) > 0 && s.searching:
		return strings.Join(append(hints, "its files are still being searched for another TLS library"), "; ")
	case len(hints) > 0:
		return strings.Join(hints, "; ")
	case s.searching:
		return "what does its TLS is unknown so far: its files are still being searched for a TLS library"
	case s.packed:
		return "what does its TLS is unknown: no known library is mapped, and the executable is packed (UPX), so that nothing can be read from it"
	case s.alone:
		return "what does its TLS is unknown: its executable shows no TLS library, and it ended before its shared libraries were looked at"
	case s.cut:
		return fmt.Sprintf("what does its TLS is unknown: no known library is mapped, and the first %d MiB of constants in its files show none", maxSearched>>20)
	}
	return "what does its TLS is unknown: no known library is mapped, and neither the executable nor its libraries show one; it may be linked statically with all names removed, or the process passes on the TLS of others, as a proxy does"
}

// residue says where bytes may have passed in a process whose library is decoded.
func (s *sight) residue(decoded string, grown bool) string {
	var ways []string
	if !grown {
		ways = append(ways, "before it was attached")
	}
	if len(s.unprobed) > 0 {
		ways = append(ways, "through "+strings.Join(s.unprobed, ", ")+", which the program imports and no probe watches")
	} else {
		ways = append(ways, "through a function of the library that is not probed")
	}
	ways = append(ways, "in handshakes that came to nothing", "on connections that could not be matched to it", "or for others, as a proxy passes TLS on")
	return decoded + "; these bytes passed " + strings.Join(ways, ", ")
}

// maxReason bounds a line, in bytes: paths are chosen by those who are watched.
const maxReason = 1000

// OneLine keeps what names of files may contain out of a line, and bounds it.
func OneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, strings.ReplaceAll(text, "\n", "; "))
	if len(text) <= maxReason {
		return text
	}
	return strings.ToValidUTF8(text[:maxReason-len("…")], "") + "…"
}
