package cli

import (
	"bufio"
	"io"
	"strings"
	"unicode/utf8"
)

// Style is how a cell looks where colours are allowed.
type Style string

const (
	Plain  Style = ""
	Faint  Style = "\x1b[2m"
	Bold   Style = "\x1b[1m"
	Red    Style = "\x1b[31m"
	Yellow Style = "\x1b[33m"
	Green  Style = "\x1b[32m"
	reset        = "\x1b[0m"
)

// Cell is one value of a row.
type Cell struct {
	Text  string
	Style Style
}

// Text makes a cell without style.
func Text(s string) Cell { return Cell{Text: s} }

// Column is one column: its head, how wide it begins, how wide it may grow on a terminal, and its side.
type Column struct {
	Head     string
	Min, Max int
	Right    bool
}

// Table aligns rows. A live table prints each row at once and widens its columns as wider values come; another one
// prints at Flush, aligned over all rows. On a terminal cells are cut at Max and lines at the terminal's width;
// elsewhere nothing is cut, because a program may read it.
type Table struct {
	out     *bufio.Writer
	columns []Column
	widths  []int
	live    bool
	headed  bool
	colour  bool
	cut     bool
	width   int
	rows    [][]Cell
}

// NewTable makes a table that prints to w.Stdout.
func NewTable(w World, live bool, columns ...Column) *Table {
	t := &Table{out: bufio.NewWriter(w.Stdout), columns: columns, live: live, colour: w.Colour(), cut: w.Terminal, width: w.Width}
	for _, c := range columns {
		t.widths = append(t.widths, max(c.Min, utf8.RuneCountInString(c.Head)))
	}
	return t
}

// Add takes one row; it has as many cells as there are columns.
func (t *Table) Add(cells ...Cell) error {
	row := make([]Cell, len(t.columns))
	for i := range row {
		if i < len(cells) {
			row[i] = Cell{t.shorten(Clean(cells[i].Text), t.columns[i].Max), cells[i].Style}
		}
		t.widths[i] = max(t.widths[i], t.grown(i, row[i].Text))
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
func (t *Table) grown(i int, text string) int {
	n := utf8.RuneCountInString(text)
	if limit := t.columns[i].Max; limit > 0 && n > limit && t.live {
		return limit
	}
	return n
}

// Flush prints the rows that wait, with the head even where there is none.
func (t *Table) Flush() error {
	t.head()
	for _, row := range t.rows {
		t.print(row)
	}
	t.rows = nil
	return t.out.Flush()
}

func (t *Table) head() {
	if t.headed {
		return
	}
	t.headed = true
	row := make([]Cell, len(t.columns))
	for i, c := range t.columns {
		row[i] = Cell{c.Head, Faint}
	}
	t.print(row)
}

// print writes one line. Errors stay in the buffered writer until Flush tells them.
func (t *Table) print(row []Cell) {
	left := t.width
	for i, cell := range row {
		text, last := cell.Text, i == len(row)-1
		n := utf8.RuneCountInString(text)
		pad := max(0, t.widths[i]-n)
		if t.cut && t.width > 0 {
			if left <= 0 {
				break
			}
			text = t.shorten(text, left)
			left -= t.widths[i] + 2
		}
		if t.columns[i].Right {
			io.WriteString(t.out, strings.Repeat(" ", pad))
		}
		if t.colour && cell.Style != Plain {
			text = string(cell.Style) + text + reset
		}
		io.WriteString(t.out, text)
		if last {
			break
		}
		if !t.columns[i].Right {
			io.WriteString(t.out, strings.Repeat(" ", pad))
		}
		io.WriteString(t.out, "  ")
	}
	t.out.WriteByte('\n')
}

func (t *Table) shorten(s string, limit int) string {
	if !t.cut || limit <= 0 || utf8.RuneCountInString(s) <= limit {
		return s
	}
	runes := []rune(s)
	return string(runes[:limit-1]) + "…"
}
