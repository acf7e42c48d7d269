package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spile/spile/proto/line"
)

// output is the -o flag.
type output struct{ format string }

func (o *output) flags(f *pflag.FlagSet) {
	f.StringVarP(&o.format, "output", "o", "table", "table, or json: one line per item")
}

func (o *output) json() (bool, error) {
	switch o.format {
	case "json":
		return true, nil
	case "table":
		return false, nil
	}
	return false, Usage("-o %q: table or json", o.format)
}

// printLines writes one JSON line per message.
func printLines[M proto.Message](w io.Writer, items ...M) error {
	var buf []byte
	for _, m := range items {
		buf = append(line.Append(buf[:0], m), '\n')
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

// pages asks for page after page until there is no next.
func pages[T any](ctx context.Context, c *client, ask func(ctx context.Context, token string) ([]T, string, error)) ([]T, error) {
	var all []T
	for token := ""; ; {
		var items []T
		var next string
		err := patient(ctx, func() (err error) {
			bounded, cancel := c.call(ctx)
			defer cancel()
			items, next, err = ask(bounded, token)
			return err
		})
		if err != nil {
			return nil, c.explain(ctx, err)
		}
		all = append(all, items...)
		if next == "" {
			return all, nil
		}
		token = next
	}
}

// ago says how long before now t was, as people say it.
func ago(now time.Time, t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	d := now.Sub(t.AsTime())
	if d < 0 {
		return "now"
	}
	return short(d) + " ago"
}

func short(d time.Duration) string {
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	}
	return strconv.Itoa(int(d/(24*time.Hour))) + "d"
}

// size says bytes in three or four characters.
func size(bytes uint64) string {
	if bytes < 1000 {
		return strconv.FormatUint(bytes, 10) + "B"
	}
	v, unit := float64(bytes), 0
	for v >= 999.5 && unit < 5 {
		v, unit = v/1000, unit+1
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f%cB", v, "?kMGTP"[unit])
	}
	return fmt.Sprintf("%.0f%cB", v, "?kMGTP"[unit])
}

func took(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%dµs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1fms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%.0fms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.1fs", d.Seconds())
}

// tally prints a map of counts, most frequent first: "200×118 404×2".
func tally(counts map[string]uint64) string {
	keys := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = k + "×" + strconv.FormatUint(counts[k], 10)
	}
	return strings.Join(parts, " ")
}

// statusCounts is a tally of status codes; 0 stands for responses that no agent read.
func statusCounts(counts map[string]uint64) string {
	if unread, some := counts["0"]; some {
		counts = maps.Clone(counts)
		delete(counts, "0")
		counts["unread"] = unread
	}
	return tally(counts)
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func orDash(s string) string { return cmp.Or(s, "-") }

// plural says "1 agent", "2 agents".
func plural(n uint64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if stem, ok := strings.CutSuffix(one, "y"); ok {
		return number(n) + " " + stem + "ies"
	}
	if strings.HasSuffix(one, "ch") {
		return number(n) + " " + one + "es"
	}
	return number(n) + " " + one + "s"
}
