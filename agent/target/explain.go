package target

import "fmt"

// Explain says for a person, one line for each function, where its probes go, what they cost there and why.
func (f File) Explain() []string {
	lines := make([]string, 0, len(f.Sites))
	for _, s := range f.Sites {
		lines = append(lines, s.Explain())
	}
	return lines
}

// Explain is the line of one site.
func (s Site) Explain() string {
	line := fmt.Sprintf("%s: %s", s.Symbol, s.Code)
	if s.Ahead != 0 {
		line += fmt.Sprintf(" at +%#x", s.Ahead)
	}
	line += fmt.Sprintf(", %s", s.Class)
	if n := len(s.Returns); n > 0 {
		line += fmt.Sprintf("; %d returns: ret, %s", n, s.ReturnClass)
	}
	switch {
	case s.Inner != nil:
		line += fmt.Sprintf("; inner: %s, +%#x, %s", s.Inner.Name, s.Inner.Offset, s.Inner.Class)
	case s.NoInner != "":
		line += "; no cheaper place: " + s.NoInner
	}
	return line
}
