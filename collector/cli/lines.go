package cli

import (
	"bufio"
	"strings"
	"unicode/utf8"
)

// lines are keys with texts, in two columns.
type lines [][2]string

func (l *lines) add(key, text string) { *l = append(*l, [2]string{Clean(key), Clean(text)}) }

// print aligns the texts. On a terminal they wrap at its width; elsewhere each stays in one line, since a program may read it.
func (l lines) print(w World) error {
	widest := 0
	for _, x := range l {
		widest = max(widest, utf8.RuneCountInString(x[0]))
	}
	out := bufio.NewWriter(w.Stdout)
	indent := widest + 2
	for _, x := range l {
		text := []string{x[1]}
		if w.Terminal && w.Width > 0 {
			if left := w.Width - indent; left >= readable {
				text = wrapped(x[1], left)
			}
		}
		pad := strings.Repeat(" ", indent-utf8.RuneCountInString(x[0]))
		if x[1] == "" {
			pad = ""
		}
		out.WriteString(x[0] + pad + strings.Join(text, "\n"+strings.Repeat(" ", indent)) + "\n")
	}
	return out.Flush()
}

// wrapped breaks a text between words into lines of at most width characters; a longer word has a line of its own.
func wrapped(text string, width int) []string {
	var all []string
	var line strings.Builder
	at := 0
	for word := range strings.SplitSeq(text, " ") {
		n := utf8.RuneCountInString(word)
		if at > 0 && at+1+n > width {
			all = append(all, line.String())
			line.Reset()
			at = 0
		}
		if at > 0 {
			line.WriteByte(' ')
			at++
		}
		line.WriteString(word)
		at += n
	}
	return append(all, line.String())
}
