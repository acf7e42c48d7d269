package call

import (
	"unicode/utf16"
	"unicode/utf8"
)

// unescape appends the text of a JSON string that the scanner accepted, at most limit bytes of it. Half a surrogate
// pair becomes U+FFFD, as in encoding/json.
func unescape(dst, raw []byte, limit int) []byte {
	for i := 0; i < len(raw) && len(dst) < limit; i++ {
		c := raw[i]
		if c != '\\' {
			dst = append(dst, c)
			continue
		}
		i++
		switch raw[i] {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r := unit(raw[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				pair := rune(utf8.RuneError)
				if i+6 < len(raw) && raw[i+1] == '\\' && raw[i+2] == 'u' {
					pair = utf16.DecodeRune(r, unit(raw[i+3:]))
				}
				if r = pair; pair != utf8.RuneError {
					i += 6
				}
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, raw[i])
		}
	}
	return dst
}

func unit(b []byte) rune {
	return hexDigit(b[0])<<12 | hexDigit(b[1])<<8 | hexDigit(b[2])<<4 | hexDigit(b[3])
}

// text is the string that raw, the last that was scanned, stands for.
func (d *Describer) text(raw []byte) []byte {
	if !d.scan.escaped {
		return raw
	}
	d.buf = unescape(d.buf[:0], raw, maxValue)
	return d.buf
}
