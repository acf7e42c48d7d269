package call

import "bytes"

// skim goes through the rest of a JSON text for its records alone: strings are jumped over, and what stands between is
// looked at for brackets and commas. It takes over from the scanner between two tokens. Whether the text is valid is not
// asked.
func (w *walk) skim(s *scanner) {
	data := s.data[s.pos:]
	if s.state == wantFirst && w.depth == w.records+1 && !w.begun && !isEmpty(data) {
		w.count++
	}
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			n := stringBytes(data[i+1:])
			if n < 0 {
				return
			}
			i += n
		case '{', '[':
			if data[i] == '[' && (w.records < 0 || w.depth < w.records) {
				w.records, w.count, w.begun = w.depth, 0, false
			}
			if data[i] == '[' && w.depth == w.records && !w.begun && !isEmpty(data[i+1:]) {
				w.count++
			}
			w.depth++
			s.stack = append(s.stack, data[i])
		case '}', ']':
			if len(s.stack) == 0 {
				return
			}
			s.stack = s.stack[:len(s.stack)-1]
			if w.depth--; w.depth == w.records {
				w.begun = true
			}
		case ',':
			if w.depth == w.records+1 && !w.begun && len(s.stack) > 0 && s.stack[len(s.stack)-1] == '[' {
				w.count++
			}
		}
	}
}

// stringBytes is the length of a string without its opening quote; -1 where it does not end.
func stringBytes(data []byte) int {
	for n := 0; ; {
		i := bytes.IndexByte(data[n:], '"')
		if i < 0 {
			return -1
		}
		n += i + 1
		slashes := 0
		for n-2-slashes >= 0 && data[n-2-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return n
		}
	}
}

// isEmpty reports whether an array ends where it began.
func isEmpty(data []byte) bool {
	data = bytes.TrimLeft(data, " \t\r\n")
	return len(data) == 0 || data[0] == ']'
}
