package cli

import (
	"bufio"
	"io"
	"strings"
	"unicode/utf8"
)

// style is how a cell looks where colours are allowed.
type style string

const (
	plain  style = ""
	faint  style = "\x1b[2m"
	bold   style = "\x1b[1m"
	red    style = "\x1b[31m"
	yellow style = "\x1b[33m"
	green  style = "\x1b[32m"
	reset        = "\x1b[0m"
)

// cell is one value of a row.
type cell struct {
	text  string
	style style
}

// text makes a cell without style.
func text(s string) cell { return cell{text: s} }

// column is one column: its head, how wide it begins, how wide it may grow on a terminal, and its side. The last column may
// be one that wraps, because a sentence that is cut says nothing.
type column struct {
	head     string
	min, max int
	right    bool
	wraps    bool
}

// table aligns rows. A live table prints each row at once and widens its columns as wider values come; another one
// prints at Flush, aligned over all rows. On a terminal cells are cut at max and lines at the terminal's width;
// elsewhere nothing is cut, because a program may read it.
type table struct {
	out     *bufio.Writer
	columns []column
	widths  []int
	live    bool
	headed  bool
	colour  bool
	cut     bool
	width   int
	rows    [][]cell
}

// newTable makes a table that prints to w.Stdout.
func newTable(w World, live bool, columns ...column) *table {
	t := &table{out: bufio.NewWriter(w.Stdout), columns: columns, live: live, colour: w.colour(), cut: w.Terminal, width: w.Width}
	for _, c := range columns {
		t.widths = append(t.widths, max(c.min, utf8.RuneCountInString(c.head)))
	}
	return t
}

// Add takes one row; it has as many cells as there are columns.
func (t *table) Add(cells ...cell) error {
	row := make([]cell, len(t.columns))
	for i := range row {
		if i < len(cells) {
			row[i] = cell{t.shorten(Clean(cells[i].text), t.columns[i].max), cells[i].style}
		}
		t.widths[i] = max(t.widths[i], t.grown(i, row[i].text))
	}
	if !t.live {
		t.rows = append(t.rows, row)
		return nil
	}
	t.head()
	t.print(row)
	return t.out.Flush()
}

// grown is how wide the column becomes for a text. A live column does not follow a single overlong value.
func (t *table) grown(i int, text string) int {
	n := utf8.RuneCountInString(text)
	if limit := t.columns[i].max; limit > 0 && n > limit && t.live {
		return limit
	}
	return n
}

// Flush prints the rows that wait, with the head even where there is none.
func (t *table) Flush() error {
	t.head()
	for _, row := range t.rows {
		t.print(row)
	}
	t.rows = nil
	return t.out.Flush()
}

func (t *table) head() {
	if t.headed {
		return
	}
	t.headed = true
	row := make([]cell, len(t.columns))
	for i, c := range t.columns {
		row[i] = cell{c.head, faint}
	}
	t.print(row)
}

// print writes one line. Errors stay in the buffered writer until Flush tells them.
func (t *table) print(row []cell) {
	left, end := t.width, len(row)-1
	for i, cell := range row {
		text, width := cell.text, t.widths[i]
		if t.cut && t.width > 0 {
			if (i == end || left <= 0) && t.columns[end].wraps && utf8.RuneCountInString(row[end].text) > left {
				t.wrap(row[end], left)
				break
			}
			if left <= 0 {
				break
			}
			text, width = t.shorten(text, left), min(width, left)
			left -= t.widths[i] + 2
		}
		pad := max(0, width-utf8.RuneCountInString(text))
		if t.columns[i].right {
			io.WriteString(t.out, strings.Repeat(" ", pad))
		}
		if t.colour && cell.style != plain {
			text = string(cell.style) + text + reset
		}
		io.WriteString(t.out, text)
		if i == end {
			break
		}
		if !t.columns[i].right {
			io.WriteString(t.out, strings.Repeat(" ", pad))
		}
		io.WriteString(t.out, "  ")
	}
	t.out.WriteByte('\n')
}

const (
	// A text wraps in what is left of its line where that is wide enough to read, else below, indented.
	readable   = 40
	wrapIndent = 4
)

func (t *table) wrap(c cell, left int) {
	indent := t.width - left
	if left < readable {
		indent, left = wrapIndent, max(1, t.width-wrapIndent)
		t.out.WriteByte('\n')
		io.WriteString(t.out, strings.Repeat(" ", indent))
	}
	if t.colour {
		io.WriteString(t.out, string(c.style))
	}
	for at, word := 0, ""; c.text != ""; {
		word, c.text, _ = strings.Cut(c.text, " ")
		n := utf8.RuneCountInString(word)
		switch {
		case at == 0:
		case at+1+n > left:
			t.out.WriteByte('\n')
			io.WriteString(t.out, strings.Repeat(" ", indent))
			at = 0
		default:
			t.out.WriteByte(' ')
			at++
		}
		if n > left {
			word = t.shorten(word, left)
		}
		io.WriteString(t.out, word)
		at += min(n, left)
	}
	if t.colour && c.style != plain {
		io.WriteString(t.out, reset)
	}
}

func (t *table) shorten(s string, limit int) string {
	if !t.cut || limit <= 0 || utf8.RuneCountInString(s) <= limit {
		return s
	}
	runes := []rune(s)
	return string(runes[:limit-1]) + "…"
}
